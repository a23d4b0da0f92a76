"""Evidence by chance: any platform, any TCB info and QE identity, any TD, all of it genuinely signed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from cryptography import x509

from tdxstack.abi.quote import QuoteBody, TdBody10, TdBody15, TdBody15Ex
from tdxstack.abi.sgx_report import SgxReportBody
from tdxstack.quoting.platform import EmulatedPlatform
from tests.synthetic.evidence import Evidence, Workshop, stamp

PLATFORM_STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
)
MODULE_STATUSES = ("UpToDate", "OutOfDate", "Revoked")
QE_STATUSES = ("UpToDate", "OutOfDate", "ConfigurationNeeded", "OutOfDateConfigurationNeeded", "Revoked")
ATTRIBUTES = (1, 1 << 5, 1 << 16, 1 << 27, 1 << 29, 1 << 30, 1 << 31, 1 << 40, 1 << 63)
_BEST_FIRST = (6, 2, 2, 1, 2, 1, 1)


class Chance:
    """A seeded source of evidence of one platform."""

    def __init__(self, shop: Workshop, seed: str) -> None:
        self._shop = shop
        self._random = random.Random(seed)
        other = {"pce_id": b"\0\1"}, {"fmspc": b"\xfeOTHER"}
        self._platforms = [self._platform(**changes) for changes in ({},) * 22 + other]

    def _platform(self, **changes: Any) -> tuple[EmulatedPlatform, x509.Certificate]:
        chance = self._random
        platform = EmulatedPlatform(
            cpusvn=bytes(chance.randrange(4) for _ in range(16)),
            pcesvn=chance.choice([9, 10, 11, 300]),
            **changes,
        )
        return platform, self._shop.pck_of(platform)

    def evidence(self) -> Evidence:
        """The next one."""
        shop, chance = self._shop, self._random
        platform, pck = chance.choice(self._platforms)
        body = self._body()
        tee_tcb_svn = body.tee_tcb_svn if isinstance(body, TdBody10) else bytes(16)
        is_td = isinstance(body, TdBody10)
        version = chance.choice([4, 5]) if body.BODY_TYPE == 2 else None
        quote = shop.quote(
            body,
            version=version,
            chain=shop.pck_chain(pck),
            auth_data=chance.choice([bytes(32)] * 19 + [bytes(chance.randrange(64))]),
            qe=self._qe_report(),
        )
        issued, days = shop.now - timedelta(days=2), chance.choice([*(30,) * 18, 2, 1])
        window: dict[str, Any] = {
            "issueDate": stamp(issued),
            "nextUpdate": stamp(issued + timedelta(days=days)),
        }
        kind = "TDX" if is_td is self._usually() else "SGX"
        return shop.evidence(
            quote,
            tcb_info=shop.tcb_info(
                id=kind,
                tcbLevels=self._levels(platform, tee_tcb_svn),
                tdxModuleIdentities=self._modules(),
                **window,
            ),
            qe_identity=shop.qe_identity(
                id="TD_QE" if is_td is self._usually() else "QE", tcbLevels=self._isv_levels(QE_STATUSES, 7)
            ),
        )

    def _usually(self) -> bool:
        return self._random.random() < 0.97

    def _body(self) -> QuoteBody:
        chance = self._random
        kind = chance.choice([SgxReportBody, TdBody10, TdBody10, TdBody15, TdBody15, TdBody15Ex])
        if kind is SgxReportBody:
            return SgxReportBody(flags=chance.choice([*(5,) * 9, 7]), mrenclave=chance.randbytes(32))
        major = chance.choice([0, 0, *(1, 3) * 9, 4])
        rest = bytes(chance.choice([0, 1, 2]) for _ in range(14))
        launched = bytes((chance.choice([3, 3, 4, 5, 6, 7]), major)) + rest
        changes: dict[str, Any] = {"tee_tcb_svn": launched, "td_attributes": self._attributes()}
        if not self._usually():
            changes |= chance.choice([{"seam_attributes": 1}, {"mrsignerseam": b"\1" * 48}])
        if issubclass(kind, TdBody15):
            updated = bytes((chance.choice([4, 5, 6, 7, 7]), major)) + launched[2:]
            changes["tee_tcb_svn2"] = chance.choice([*(launched, updated, updated) * 6, chance.randbytes(16)])
            changes["mrservicetd"] = chance.choice([bytes(48)] * 19 + [b"\1" * 48])
        return self._shop.body(kind, **changes)

    def _attributes(self) -> int:
        chance = self._random
        attributes = chance.choice([1 << 28] * 19 + [0])
        return attributes | (0 if self._usually() else chance.choice(ATTRIBUTES))

    def _qe_report(self) -> dict[str, Any]:
        chance = self._random
        changes: dict[str, Any] = {"isv_svn": chance.choice([5, 6, 7, 7, 7, 8, 300])}
        if not self._usually():
            changes |= chance.choice(
                [{"flags": 0x13}, {"flags": 0x15}, {"miscselect": 1}, {"xfrm": 1}, {"isv_prod_id": 1}]
            )
        return changes

    def _levels(self, platform: EmulatedPlatform, tee_tcb_svn: bytes) -> list[dict[str, Any]]:
        """Levels about what the platform reaches, in the order in which Intel writes them: best first."""
        chance = self._random

        def near(svns: bytes) -> bytes:
            changed = list(svns)
            for _ in range(chance.choice([0, 0, 1, 2])):
                index = chance.randrange(16)
                changed[index] = max(0, min(255, changed[index] + chance.choice([-1, -1, 1])))
            return bytes(changed)

        parts = sorted(
            {
                (near(platform.cpusvn), platform.pcesvn + chance.choice([0, 0, 0, -1, 1]), near(tee_tcb_svn))
                for _ in range(chance.randrange(6))
            }
            | ({(bytes(16), 0, bytes(16))} if chance.random() < 0.8 else set()),
            reverse=True,
        )
        return [
            {
                "tcb": {
                    "sgxtcbcomponents": [{"svn": svn} for svn in sgx],
                    "pcesvn": pcesvn,
                    "tdxtcbcomponents": [{"svn": svn} for svn in tdx],
                },
                **self._outcome(PLATFORM_STATUSES, _BEST_FIRST),
            }
            for sgx, pcesvn, tdx in parts
        ]

    def _modules(self) -> list[dict[str, Any]]:
        module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
        return [
            {"id": name, **module, "tcbLevels": self._isv_levels(MODULE_STATUSES, 6)}
            for name in ("TDX_03", "TDX_01", "TDX_00")
        ]

    def _isv_levels(self, statuses: Sequence[str], around: int) -> list[dict[str, Any]]:
        chance = self._random
        numbers = sorted(
            {around + chance.choice([-3, -2, -1, 0, 1]) for _ in range(3)} | {chance.choice([0, 0, 0, 5])},
            reverse=True,
        )
        return [
            {
                "tcb": {"isvsvn": number},
                **self._outcome(statuses, (4, *(1 for _ in statuses[1:]))),
            }
            for number in numbers
        ]

    def _outcome(self, statuses: Sequence[str], weights: Sequence[int]) -> dict[str, Any]:
        chance = self._random
        (status,) = chance.choices(statuses, weights)
        advisories = sorted({f"INTEL-SA-{chance.randrange(5):05}" for _ in range(chance.randrange(3))})
        return {
            "tcbDate": f"202{chance.randrange(3, 6)}-0{chance.randrange(1, 10)}-01T00:00:00Z",
            "tcbStatus": status,
            **({"advisoryIDs": advisories} if advisories else {}),
        }
