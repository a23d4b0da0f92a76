"""What the BIOS must have set, read from the registers that it sets.

Bits: IA32_TME_CAPABILITY and IA32_TME_ACTIVATE as in the TDX module's msr_defs.h, KeyID partitioning as in
Linux arch/x86/virt/vmx/tdx/tdx.c, the others as Canonical's check scripts and intel/lkvs read them.
"""

from __future__ import annotations

from tdxstack.host.check import BIOS_GUIDE, Check, Circumstances, Finding, Purpose
from tdxstack.host.kernel_log import key_range_of
from tdxstack.host_access import AbsentError, Host, HostError

TME_CAPABILITY = 0x981
TME_ACTIVATE = 0x982
KEYID_PARTITIONING = 0x87
SEAMRR_MASK = 0x1401
FEATURE_CONTROL = 0x3A
MCHECK_ERROR = 0xA0

MENU = "BIOS: Socket Configuration > Processor Configuration > TME, TME-MT, TDX: "
SGX_MENU = "BIOS: Socket Configuration > Processor Configuration > Software Guard Extension (SGX): "
DELL = "; Dell: System Security > Memory Encryption: Multiple Keys"
SAVE = " (menus differ between vendors), then power-cycle"


class _Bios(Check):
    """A setting of the BIOS; a TDX module that works shows that all are right."""

    purpose = Purpose.LAUNCH
    link = BIOS_GUIDE
    proved_by = ("kvm.vm_types", "module.initialized")


class Tme(_Bios):
    """Total memory encryption."""

    id = "bios.tme"
    looks_at = "MSR 0x982 (TME_ACTIVATE) bits 0, 1 and 31"
    expected = "TME is enabled (bit 1)"
    why = "TDX encrypts the memory of TDs with the engine that Total Memory Encryption switches on."
    fix = f"{MENU}Memory Encryption (TME): Enable{DELL}{SAVE}"
    needs = ("cpu.seam",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        try:
            activate = host.msr(TME_ACTIVATE)
        except AbsentError:
            return self.fail(
                "there is no MSR 0x982", "this CPU has no memory encryption, or the BIOS hides it"
            )
        found = f"TME_ACTIVATE is {activate:#x}"
        if not activate >> 1 & 1:
            return self.fail(f"{found}, bit 1 is clear", "memory encryption (TME) is off in the BIOS")
        return self.ok(f"{found}, bypass is {'on' if activate >> 31 & 1 else 'off'}")


class TmeMt(_Bios):
    """More than one key for memory."""

    id = "bios.tme_mt"
    looks_at = "MSR 0x981 (TME_CAPABILITY) bits 50:36, MSR 0x982 (TME_ACTIVATE) bits 35:32"
    expected = "TME-MT has keys"
    why = "Every TD has a key of its own; Multi-Tenant TME (TME-MT, also MK-TME) provides the keys."
    fix = f"{MENU}Total Memory Encryption Multi-Tenant (TME-MT): Enable{DELL}{SAVE}"
    needs = ("bios.tme",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        keys = host.msr(TME_CAPABILITY) >> 36 & 0x7FFF
        bits = host.msr(TME_ACTIVATE) >> 32 & 0xF
        if not keys:
            return self.fail("0 keys are possible", "this CPU offers no keys for TME-MT")
        if not bits:
            return self.fail(f"{keys} keys are possible, 0 bits are used", "TME-MT is off in the BIOS")
        return self.ok(f"{keys} keys are possible, {bits} bits are used for them")


class Integrity(_Bios):
    """Cryptographic integrity of memory, which most boards cannot combine with TDX."""

    id = "bios.integrity"
    purpose = Purpose.ADVICE
    looks_at = "MSR 0x982 (TME_ACTIVATE) bits 51:48"
    expected = "TME-MT without memory integrity"
    why = (
        "The vendors' instructions for TDX ask for TME-MT memory integrity to be off: it costs memory and "
        "speed, and BIOSes refuse TDX with it."
    )
    fix = f"{MENU}TME-MT memory integrity: Disable{SAVE}"
    needs = ("bios.tme_mt",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        algorithms = host.msr(TME_ACTIVATE) >> 48 & 0xF
        found = f"algorithms are {algorithms:#06b}"
        if algorithms & 0b1010 and not algorithms & 0b0101:
            return self.warn(found, "TME-MT memory integrity is on in the BIOS")
        return self.ok(found)


class KeySplit(_Bios):
    """How many keys are TDX's."""

    id = "bios.key_split"
    looks_at = "MSR 0x87 (KEYID_PARTITIONING) bits 63:32; else the kernel's log"
    expected = "at least 2 private KeyIDs"
    why = (
        "The BIOS splits the keys between ordinary virtual machines and TDX. One private key is the TDX "
        "module's own, each TD needs one more. MSR 0x981 shows only what is possible, not the split."
    )
    fix = f"{MENU}TME-MT/TDX key split: a non-zero value, the largest that you can spare{SAVE}"
    needs = ("bios.tme_mt",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        try:
            private, found = host.msr(KEYID_PARTITIONING) >> 32, "MSR 0x87"
        except AbsentError:
            private, found = 0, "there is no MSR 0x87"
        except HostError as unread:
            keys = key_range_of(host)
            if keys is None:
                raise unread from None
            private, found = keys[1] - keys[0], "the kernel's log"
        if private >= 2:
            return self.ok(f"{private} private KeyIDs: at most {private - 1} TDs ({found})")
        if private == 1:
            return self.fail(f"1 private KeyID ({found})", "the only private key is the TDX module's own")
        return self.fail(
            f"0 private KeyIDs ({found})", "the BIOS gives TDX none of the memory keys (key split 0)"
        )


class Seamrr(_Bios):
    """The memory range of the TDX module."""

    id = "bios.tdx"
    looks_at = "MSR 0x1401 (SEAMRR_MASK) bit 11"
    expected = "the SEAM range is enabled"
    why = "With TDX enabled the BIOS reserves the memory range in which the TDX module runs."
    fix = f"{MENU}Trust Domain Extension (TDX): Enable, and SEAM Loader: Enable{SAVE}"
    needs = ("bios.key_split",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        try:
            mask = host.msr(SEAMRR_MASK)
        except AbsentError:
            return self.fail(
                "there is no MSR 0x1401", "TDX is off in the BIOS, or this BIOS does not know it"
            )
        found = f"SEAMRR_MASK is {mask:#x}"
        if mask >> 11 & 1:
            return self.ok(found)
        return self.fail(f"{found}, bit 11 is clear", "TDX is off in the BIOS")


class Sgx(_Bios):
    """SGX, without which the TDX module is not loaded and nothing can be attested."""

    id = "bios.sgx"
    looks_at = "MSR 0x3a (FEATURE_CONTROL) bits 0, 17 and 18; else the flag sgx in /proc/cpuinfo"
    expected = "SGX is enabled"
    why = (
        "The quoting enclave is an SGX enclave, and BIOSes that do not initialise SGX do not initialise TDX "
        "either."
    )
    fix = f"{SGX_MENU}SW Guard Extensions (SGX): Enable, SGX Auto MP Registration: Enable{SAVE}"
    needs = ("bios.tme",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        control = host.msr(FEATURE_CONTROL)
        found = f"FEATURE_CONTROL is {control:#x}"
        if not control >> 18 & 1:
            return self.fail(f"{found}, bit 18 is clear", "SGX is off in the BIOS")
        if not control >> 17 & 1:
            return self.fail(
                f"{found}, bit 17 is clear",
                "SGX launch control is locked: Linux runs no enclaves",
                f"{SGX_MENU}SGX Launch Control Policy: Unlocked{SAVE}",
            )
        return self.ok(found)


class Mcheck(_Bios):
    """The error that SGX and the check of memory leave."""

    id = "bios.mcheck"
    looks_at = "MSR 0xa0 (SGX and MCHECK error)"
    expected = "0"
    why = (
        "MCHECK validates the platform before SGX and TDX start. A value other than 0 names the reason why "
        "it stopped; 0x1861 comes from corrupt SGX registration variables."
    )
    fix = f"{SGX_MENU}SGX Factory Reset: Enable once, then register the platform again{SAVE}"
    needs = ("bios.sgx",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        try:
            error = host.msr(MCHECK_ERROR)
        except AbsentError:
            return self.skip("this CPU does not report it")
        if not error:
            return self.ok("0x0")
        if error == 0x1861:
            return self.fail(f"{error:#x}", "the SGX registration variables are corrupt")
        return self.fail(
            f"{error:#x}",
            "the BIOS' check of the platform (MCHECK) has failed",
            "update the BIOS; check that all sockets have the same number of identical memory modules",
        )
