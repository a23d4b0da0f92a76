"""Causes in RTMR1 and RTMR2: what was booted, and from where."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator

from tdxstack.measurement.comparison.alignment import Kind, Pair
from tdxstack.measurement.comparison.cause import Case, Cause, cause_of, either, where
from tdxstack.measurement.comparison.values import changed_values


def _retries(case: Case) -> Iterator[Cause]:
    exits = case.about("EV_EFI_ACTION", "Exit Boot Services", Kind.ADDED, Kind.REMOVED)
    calls = case.about("EV_EFI_ACTION", "", Kind.ADDED, Kind.REMOVED)
    if exits:
        yield cause_of(
            "exit-boot-services-retry",
            "One kernel had to call ExitBootServices again, as the memory map had changed in between.",
            "Nothing is wrong; accept both values of RTMR1, or match single events instead of the register.",
            exits,
        )
    if others := {number: pair for number, pair in calls.items() if number not in exits}:
        yield cause_of(
            "boot-attempts",
            "One TD made more attempts to boot than the other, each of which is logged.",
            "Look for a boot option that fails before the one that works, and remove it.",
            others,
        )


def _command_line(case: Case) -> Iterator[Cause]:
    loaded = case.about("EV_EVENT_TAG", "kernel command line")
    from_grub = case.about("EV_IPL", "GRUB kernel command line")
    if not loaded and not from_grub:
        return
    pairs = loaded | from_grub | _passed_on(case, loaded)
    alone = [pair for pair in loaded.values() if pair.kind in (Kind.ADDED, Kind.REMOVED)]
    if alone and not from_grub:
        side = case.a.name if alone[0].b is None else case.b.name
        yield cause_of(
            "unmeasured-command-line",
            f"Only {side} has its kernel command line measured; Linux before 6.9 measures none in a TD.",
            "Boot Linux 6.9 or newer, or a UKI, or else leave the command line unattested knowingly.",
            pairs,
        )
        return
    yield cause_of(
        "kernel-command-line",
        f"The kernel command lines differ{_difference(pairs.values())}.",
        "Give both kernels the same command line, in the same order, spaces included.",
        pairs,
    )


def _passed_on(case: Case, loaded: dict[int, Pair]) -> dict[int, Pair]:
    """What systemd-boot and systemd-stub measure of the same command line, to the same digest."""
    digests = {entry.digest for pair in loaded.values() for entry in (pair.a, pair.b) if entry}
    return {
        number: pair
        for number, pair in case.about("EV_IPL", "").items()
        if digests.issuperset(entry.digest for entry in (pair.a, pair.b) if entry)
    }


def _difference(pairs: Collection[Pair]) -> str:
    """The words that differ: the first's with a minus, the second's with a plus; else what is known."""
    texts = [(pair.a.text if pair.a else None, pair.b.text if pair.b else None) for pair in pairs]
    for a, b in texts:
        if a is not None and b is not None:
            words = difflib.ndiff(a.split(" "), b.split(" "))
            shown = " ".join(f"{word[0]}{word[2:]}" for word in words if word[0] in "+-")
            return f": {shown or 'only in spaces'}"
    for a, b in texts:
        if a is not None or b is not None:
            which, other = ("first", "second") if b is None else ("second", "first")
            return f": the {which} is {a or b!r}, of the {other} the log holds only the digest"
    return "; the log holds only their digests"


def _initrd(case: Case) -> Iterator[Cause]:
    pairs = case.about("EV_EVENT_TAG", "initrd")
    if pairs:
        alone = next((pair for pair in pairs.values() if pair.kind is not Kind.CHANGED), None)
        yield cause_of(
            "initrd",
            "The initrds differ." if alone is None else f"The initrd is measured {where(alone)}.",
            "Build both initrds of the same packages at the same time (their file times are measured too).",
            pairs,
        )


def _grub(case: Case) -> Iterator[Cause]:
    pairs = case.about("EV_IPL", "GRUB command")
    if not pairs:
        return
    words = [
        f"{either(pair).meaning.removeprefix('GRUB command: ')!r} ({where(pair)})" for pair in pairs.values()
    ]
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    yield cause_of(
        "grub-commands",
        f"GRUB executed different commands: {', '.join(words[:3])}{more}.",
        "Compare the two grub.cfg files, and what each of them includes.",
        pairs,
    )


def _mok(case: Case) -> Iterator[Cause]:
    pairs = case.about("EV_IPL", "shim's")
    if pairs:
        names = ", ".join(sorted({either(pair).meaning.removeprefix("shim's ") for pair in pairs.values()}))
        yield cause_of(
            "machine-owner-keys",
            f"shim's key lists differ: {names}. Another shim, or other machine owner keys enrolled.",
            "Compare `mokutil --list-enrolled` and the shim packages of both guests.",
            pairs,
        )


def _boot_loader_data(case: Case) -> Iterator[Cause]:
    for number, pair in case.about("EV_IPL", "").items():
        yield cause_of(
            "boot-loader-data",
            f"The boot loader measured other data: {either(pair).meaning} ({where(pair)}).",
            "Compare the boot loaders' configuration, and what a UKI holds.",
            {number: pair},
        )


def _authority(case: Case) -> Iterator[Cause]:
    pairs = case.about("EV_EFI_VARIABLE_AUTHORITY", "")
    if pairs:
        yield cause_of(
            "image-authority",
            "The images that were started are vouched for by different keys: "
            + ", ".join(sorted({f"{either(pair).subject[1]} ({where(pair)})" for pair in pairs.values()}))
            + ".",
            "Compare who signed the boot loaders (sbverify --list) and which keys are enrolled.",
            pairs,
        )


def _partitions(case: Case) -> Iterator[Cause]:
    pairs = case.about("EV_EFI_GPT_EVENT", "")
    for number, pair in pairs.items():
        names = [change.name for change in changed_values(pair.a, pair.b)] if pair.a and pair.b else []
        yield cause_of(
            "partition-table",
            f"The disks have different partition tables{': ' + ', '.join(names) if names else ''}.",
            "Build both disks from one image; copies that get new GUIDs are other disks to the firmware.",
            {number: pair},
        )


def _kernel_header(case: Case) -> Iterator[Cause]:
    """Known where one side is a prediction, which says what the kernel would be measured to otherwise."""
    for number, pair in case.about("EV_EFI_BOOT_SERVICES_APPLICATION", "", Kind.CHANGED).items():
        assert pair.a is not None
        assert pair.b is not None
        if pair.a.other_header == pair.b.digest or pair.b.other_header == pair.a.digest:
            yield cause_of(
                "kernel-header",
                "It is the same kernel, but only one QEMU has written into its setup header.",
                "Use the same QEMU (10.2 and newer leave a TD's kernel as it is), or a firmware that takes it"
                " unchanged (edk2 202502 and newer).",
                {number: pair},
            )


def _images(case: Case) -> Iterator[Cause]:
    for number, pair in case.about("EV_EFI_BOOT_SERVICES_APPLICATION", "").items():
        what = either(pair).subject[1]
        sentence = f"Another program was started: {what} ({where(pair)})."
        advice = "Compare the versions of shim, GRUB and kernel in both guests."
        if pair.kind is Kind.CHANGED and "without a path" in what:
            sentence = (
                "The kernel images differ: another kernel, or one whose setup header QEMU has patched"
                " (QEMU before 10.2 does so for a kernel that it is given directly)."
            )
            advice = "Use the same kernel file and QEMU; `tdx predict` knows which QEMU patches."
        yield cause_of("boot-image", sentence, advice, {number: pair})


BOOT_RULES = (
    _retries,
    _command_line,
    _initrd,
    _grub,
    _mok,
    _boot_loader_data,
    _authority,
    _partitions,
    _kernel_header,
    _images,
)
