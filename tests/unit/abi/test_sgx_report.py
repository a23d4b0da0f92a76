from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdxstack.abi.sgx_report import SgxReportBody
from tdxstack.errors import MalformedError


@settings(deadline=None)
@given(st.binary(min_size=384, max_size=384))
def test_round_trip(data: bytes) -> None:
    assert SgxReportBody.parse(data).to_bytes() == data


@pytest.mark.parametrize("size", [0, 383, 385])
def test_refuses_other_sizes(size: int) -> None:
    with pytest.raises(MalformedError, match="not 384"):
        SgxReportBody.parse(bytes(size))


def test_fields_lie_where_the_specification_puts_them() -> None:
    report = SgxReportBody.parse(bytes(i % 251 for i in range(384)))
    data = report.to_bytes()
    assert report.cpusvn == data[:16]
    assert report.miscselect == int.from_bytes(data[16:20], "little")
    assert report.attributes == data[48:64]
    assert report.mrenclave == data[64:96]
    assert report.mrsigner == data[128:160]
    assert report.isv_prod_id == int.from_bytes(data[256:258], "little")
    assert report.isv_svn == int.from_bytes(data[258:260], "little")
    assert report.report_data == data[320:]
