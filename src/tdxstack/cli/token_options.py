"""The options of commands that can sign what they found."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from tdxstack.cli import EXISTING_FILE
from tdxstack.errors import UsageError
from tdxstack.files import read_secret, write_atomically
from tdxstack.verification.quote import QuoteResult
from tdxstack.verification.token import Appraisal, SigningKey, claims_of, sign_token

STDOUT = "-"

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class TokenOptions:
    """Where the token goes, and the key that signs it."""

    target: str
    key: SigningKey

    @property
    def on_stdout(self) -> bool:
        """Whether the token is all that standard output gets."""
        return self.target == STDOUT

    def write(
        self, result: QuoteResult, time: datetime, policy_text: bytes | None, nonce: bytes | None
    ) -> None:
        """Sign what was found as of `time`, and write it."""
        appraisal = Appraisal(result, (policy_id(policy_text),), time, nonce or b"")
        token = sign_token(claims_of(appraisal), self.key)
        if self.on_stdout:
            click.echo(token)
        else:
            write_atomically(Path(self.target), token.encode() + b"\n")


def policy_id(policy_text: bytes | None) -> str:
    """The name of a policy in a token: the digest of its file, or that it is the default."""
    return "tdxstack:default" if policy_text is None else f"sha256:{hashlib.sha256(policy_text).hexdigest()}"


def token_options(command: Command) -> Command:
    """Add `--token` and `--token-key`, and hand them to the command as `token`, None without them."""

    @functools.wraps(command)
    def wrapper(*, token: str | None, token_key: Path | None, **others: Any) -> Any:
        if (token is None) != (token_key is None):
            raise UsageError("--token and --token-key go together", hint="give both or none")
        if token == STDOUT and others["as_json"]:
            raise UsageError("--json and --token - would both write to standard output", hint="give a file")
        key = SigningKey.from_pem(read_secret(token_key)) if token_key else None
        return command(token=TokenOptions(token, key) if token and key else None, **others)

    decorated = cast(Command, wrapper)
    decorated = click.option(
        "--token-key", type=EXISTING_FILE, help="Private key (P-256, P-384 or Ed25519, PEM) for the token."
    )(decorated)
    return click.option(
        "--token", metavar="FILE|-", help="Write the result as a signed token (EAR, a JWT), accepted or not."
    )(decorated)
