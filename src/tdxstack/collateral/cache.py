"""Answers of a PCS or PCCS kept on disk. That an answer is kept here says nothing about its truth."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tdxstack.errors import MalformedError
from tdxstack.files import make_private, write_atomically

FORMAT: Final = "tdxstack cached answer 1"


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """What a URL answered: body and issuer chain (PEM, may be empty), its ETag, and when it was asked.

    Until `fresh_until` there is no need to ask again.
    """

    url: str
    body: bytes
    issuer_chain: bytes
    etag: str
    stored: datetime
    fresh_until: datetime

    def is_fresh(self, now: datetime) -> bool:
        """Whether it need not be asked for again; what comes from the future is not fresh."""
        return self.stored <= now < self.fresh_until


@dataclass(frozen=True, slots=True)
class AnswerCache:
    """A file for each URL, written whole. Any number of processes may use the directory at once."""

    directory: Path

    def load(self, url: str) -> CachedAnswer | None:
        """The answer kept for `url`, or None. Raises `MalformedError` if its file is damaged."""
        path = self._path(url)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _damaged(path, error.strerror or str(error)) from None
        try:
            document = json.loads(text)
            if document.pop("sha256") != _digest(document) or document.pop("format") != FORMAT:
                raise _damaged(path, "its checksum or format is wrong")
            if document["url"] != url:
                raise _damaged(path, "it is of another URL")
            return CachedAnswer(
                url=url,
                body=base64.b64decode(document["body"]),
                issuer_chain=document["issuer_chain"].encode(),
                etag=document["etag"],
                stored=datetime.fromisoformat(document["stored"]),
                fresh_until=datetime.fromisoformat(document["fresh_until"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _damaged(path, f"it cannot be read: {error}") from None

    def store(self, answer: CachedAnswer) -> None:
        """Keep an answer in place of an older one. Raises `OSError`."""
        document: dict[str, Any] = {
            "format": FORMAT,
            "url": answer.url,
            "body": base64.b64encode(answer.body).decode(),
            "issuer_chain": answer.issuer_chain.decode(),
            "etag": answer.etag,
            "stored": answer.stored.isoformat(),
            "fresh_until": answer.fresh_until.isoformat(),
        }
        document["sha256"] = _digest(document)
        make_private(self.directory)
        write_atomically(self._path(answer.url), json.dumps(document).encode(), mode=0o600)

    def _path(self, url: str) -> Path:
        return self.directory / f"{hashlib.sha256(url.encode()).hexdigest()}.json"


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path, problem: str) -> MalformedError:
    return MalformedError(
        f"cached answer {path} is damaged: {problem}", hint="fetch it again, without --offline"
    )
