/* SPDX-License-Identifier: Apache-2.0
 *
 * A bare TD guest that calls every TDCALL leaf and TDG.VP.VMCALL sub-function, with operands good and bad, and prints
 * what came of it: "leaf case got=0x...". What should have come of it, test_tdcall.py knows.
 */

typedef unsigned long u64;
typedef unsigned int u32;
typedef unsigned char u8;

#define NONE (~0UL)
#define PAGE 4096UL

struct registers {
    u64 rax, rcx, rdx, rbx, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15;
};

enum { MODE_CALLS, MODE_FATAL, MODE_RACE, MODE_QUOTE, MODE_VIOLATION };

extern u64 mode[2], result, fault_code, resume, call_stack;
extern u32 fault_vector, interrupts;
void tdcall(struct registers *r);
u32 attempt_rdmsr(u64 msr, u64 unused);
u32 attempt_wrmsr(u64 msr, u64 value);
u32 attempt_cr0(u64 value, u64 unused);
u32 attempt_cr3(u64 value, u64 unused);
u32 attempt_cr4(u64 value, u64 unused);
u32 attempt_cpuid(u64 leaf, u64 subleaf);
u32 attempt_in(u64 port, u64 unused);
u32 attempt_hlt(u64 unused, u64 unused2);
u32 attempt_rdpmc(u64 counter, u64 unused);
u32 attempt_load(u64 address, u64 unused);
u32 attempt_store(u64 address, u64 value);
u32 attempt_call(u64 address, u64 unused);
void vector_6(void);
void vector_8(void);
void vector_13(void);
void vector_14(void);
void vector_20(void);
void vector_64(void);

static u64 shared_bit;
static u32 arrived, finished;

/* Private memory, aligned as operands want it; and RAM that the TD was not built with */
static u8 *const report = (u8 *)0x804000;
static u8 *const data = (u8 *)0x805000;
static u8 *const list = (u8 *)0x805000;
#define FRESH 0x1000000UL

/* The shared alias of a GPA, as a linear address: what reset.S has mapped */
#define SHARED(gpa) ((gpa) + (1UL << 39))

static u64 vmcall(u64 function, u64 a, u64 b, u64 c, u64 d, struct registers *out)
{
    struct registers r = {
        .rcx = 0xfc00, .r11 = function, .r12 = a, .r13 = b, .r14 = c, .r15 = d,
    };

    tdcall(&r);
    if (out)
        *out = r;
    return r.r10;
}

static void port_write(u64 port, u64 size, u64 value)
{
    vmcall(30, size, 1, port, value, 0);
}

static void print(const char *text)
{
    while (*text)
        port_write(0x3f8, 1, *text++);
}

static void print_hex(u64 value, int digits)
{
    while (digits--) {
        u64 nibble = value >> (4 * digits) & 15;

        port_write(0x3f8, 1, nibble < 10 ? '0' + nibble : 'a' + nibble - 10);
    }
}

static void got(const char *leaf, const char *what, u64 value)
{
    print(leaf);
    print(" ");
    print(what);
    print(" got=0x");
    print_hex(value, 16);
    print("\n");
}

static void dump(const char *name, const u8 *from, u64 length)
{
    print(name);
    print(" bytes got=0x");
    for (u64 i = 0; i < length; i++)
        print_hex(from[i], 2);
    print("\n");
}

static void finish(u64 code)
{
    print("end of test\n");
    port_write(0xf4, 4, code);
    for (;;)
        asm volatile("pause");
}

void unexpected(u32 vector, u64 rip);

void unexpected(u32 vector, u64 rip)
{
    got("unexpected", "vector", vector);
    got("unexpected", "rip", rip);
    finish(1);
}

static u64 call(u64 rax, u64 rcx, u64 rdx, u64 r8, u64 r9, struct registers *out)
{
    struct registers r = { .rax = rax, .rcx = rcx, .rdx = rdx, .r8 = r8, .r9 = r9 };

    tdcall(&r);
    if (out)
        *out = r;
    return r.rax;
}

static void fill(u8 *to, u8 value, u64 length)
{
    for (u64 i = 0; i < length; i++)
        ((volatile u8 *)to)[i] = value;
}

static u64 address(const void *p)
{
    return (u64)p;
}

static void test_leaves(void)
{
    struct registers r;

    got("none", "leaf-13", call(13, 0, 0, 0, 0, 0));
    got("none", "leaf-65535", call(65535, 0, 0, 0, 0, 0));
    got("none", "reserved-24", call(1UL << 24 | 1, 0, 0, 0, 0, 0));
    got("none", "reserved-63", call(1UL << 63 | 1, 0, 0, 0, 0, 0));
    got("none", "version-1", call(1UL << 16 | 1, 0, 0, 0, 0, 0));
    got("vp.info", "ok", call(1, 0, 0, 0, 0, &r));
    got("vp.info", "gpaw", r.rcx);
    got("vp.info", "attributes", r.rdx);
    got("vp.info", "vcpus", r.r8);
    got("vp.info", "index", r.r9);
    got("vp.info", "sys-rd", r.r10);
    got("vp.info", "reserved", r.r11);
    got("vp.veinfo.get", "none", call(3, 1, 1, 1, 1, &r));
    got("vp.veinfo.get", "none-reason", r.rcx | r.rdx | r.r8 | r.r9 | r.r10);
    got("vp.cpuidve.set", "reserved", call(5, 4, 0, 0, 0, 0));
    got("vp.cpuidve.set", "off", call(5, 0, 0, 0, 0, 0));
    got("vp.enter", "no-vm", call(25, 0, 0, 0, 0, 0));
    got("vp.invept", "none", call(26, 0, 0, 0, 0, 0));
    got("vp.invept", "l1", call(26, 1, 0, 0, 0, 0));
    got("vp.invept", "l2", call(26, 2, 0, 0, 0, 0));
    got("vp.invvpid", "no-vm", call(27, 0, 0, 0, 0, 0));
    got("servtd.rd", "unbound", call(18, 0, 0, 0, 0, 0));
    got("servtd.wr", "unbound", call(20, 0, 0, 0, 0, 0));
}

static void test_measurements(void)
{
    fill(data, 0x5a, 64);
    got("mr.rtmr.extend", "ok", call(2, address(data), 3, 0, 0, 0));
    got("mr.rtmr.extend", "index-4", call(2, address(data), 4, 0, 0, 0));
    got("mr.rtmr.extend", "index-max", call(2, address(data), NONE, 0, 0, 0));
    got("mr.rtmr.extend", "misaligned", call(2, address(data) + 8, 3, 0, 0, 0));
    got("mr.rtmr.extend", "shared", call(2, address(data) | shared_bit, 3, 0, 0, 0));
    got("mr.rtmr.extend", "beyond", call(2, shared_bit << 1, 3, 0, 0, 0));
    got("mr.rtmr.extend", "bit-63", call(2, 1UL << 63, 3, 0, 0, 0));

    fill(data, 0xc3, 64);
    got("mr.report", "ok", call(4, address(report), address(data), 0, 0, 0));
    dump("mr.report", report, 1024);
    got("mr.report", "misaligned-report", call(4, address(report) + 512, address(data), 0, 0, 0));
    got("mr.report", "misaligned-data", call(4, address(report), address(data) + 32, 0, 0, 0));
    got("mr.report", "subtype", call(4, address(report), address(data), 1, 0, 0));
    got("mr.report", "beyond-report", call(4, shared_bit << 1, address(data), 0, 0, 0));
    got("mr.report", "beyond-data", call(4, address(report), shared_bit << 1, 0, 0, 0));

    got("mr.verifyreport", "ok", call(22, address(report), 0, 0, 0, 0));
    got("mr.verifyreport", "misaligned", call(22, address(report) + 128, 0, 0, 0, 0));
    got("mr.verifyreport", "shared", call(22, address(report) | shared_bit, 0, 0, 0, 0));
    report[255] ^= 1;
    got("mr.verifyreport", "mac", call(22, address(report), 0, 0, 0, 0));
    report[255] ^= 1;
    report[128] ^= 1;
    got("mr.verifyreport", "reportdata", call(22, address(report), 0, 0, 0, 0));
    report[128] ^= 1;
    report[16] ^= 1;
    got("mr.verifyreport", "cpusvn", call(22, address(report), 0, 0, 0, 0));
    report[16] ^= 1;
    report[0] = 0;
    got("mr.verifyreport", "type", call(22, address(report), 0, 0, 0, 0));
}

static void test_pages(void)
{
    struct registers r;

    got("mem.page.accept", "4k", call(6, FRESH, 0, 0, 0, 0));
    got("mem.page.accept", "2m", call(6, (FRESH + 0x200000) | 1, 0, 0, 0, 0));
    got("mem.page.accept", "again-4k", call(6, FRESH, 0, 0, 0, 0));
    got("mem.page.accept", "again-2m", call(6, (FRESH + 0x200000) | 1, 0, 0, 0, 0));
    got("mem.page.accept", "mixed-2m", call(6, FRESH | 1, 0, 0, 0, 0));
    got("mem.page.accept", "misaligned-2m", call(6, (FRESH + 0x1000) | 1, 0, 0, 0, 0));
    got("mem.page.accept", "level-2", call(6, 0x40000000 | 2, 0, 0, 0, 0));
    got("mem.page.accept", "level-7", call(6, FRESH | 7, 0, 0, 0, 0));
    got("mem.page.accept", "reserved", call(6, FRESH | 8, 0, 0, 0, 0));
    got("mem.page.accept", "shared", call(6, FRESH | shared_bit, 0, 0, 0, 0));
    got("mem.page.accept", "beyond", call(6, shared_bit << 1, 0, 0, 0, 0));

    got("mem.page.attr.rd", "ok", call(23, FRESH, 0, 0, 0, &r));
    got("mem.page.attr.rd", "mapping", r.rcx & ~7UL);
    got("mem.page.attr.rd", "attributes", r.rdx);
    got("mem.page.attr.rd", "shared", call(23, FRESH | shared_bit, 0, 0, 0, 0));
    got("mem.page.attr.wr", "ok", call(24, FRESH, 0, 0, 0, 0));
    got("mem.page.attr.wr", "l1", call(24, FRESH, 1, 0, 0, 0));
    got("mem.page.attr.wr", "l2", call(24, FRESH, 1UL << 16, 0, 0, 0));
    got("mem.page.attr.wr", "flags", call(24, FRESH, 0, 1UL << 48, 0, 0));
    got("mem.page.attr.wr", "level-3", call(24, FRESH | 3, 0, 0, 0, 0));
    got("mem.page.attr.wr", "shared", call(24, FRESH | shared_bit, 0, 0, 0, 0));
}

/* A register of six fields, which are printed with their numbers */
static void register_fields(const char *name, u64 id)
{
    struct registers r;

    for (u64 i = 0; i < 6; i++) {
        call(7, 0, id + i, 0, 0, &r);
        print(name);
        print(".");
        print_hex(i, 1);
        print(" value got=0x");
        print_hex(r.r8, 16);
        print("\n");
    }
}

static void field(const char *name, u64 leaf, u64 id)
{
    struct registers r;
    u64 status = call(leaf, 0, id, 0, 0, &r);

    got(name, "status", status);
    got(name, "value", r.r8);
}

static void test_metadata(void)
{
    struct registers r;
    u64 next;

    field("vm.rd.attributes", 7, 0x1110000300000000);
    field("vm.rd.gpaw", 7, 0x1110000000000003);
    field("vm.rd.config-flags", 7, 0x1110000300000016);
    field("vm.rd.max-vcpus", 7, 0x1110000200000002);
    field("vm.rd.num-vcpus", 7, 0x9010000200000001);
    field("vm.rd.td-ctls", 7, 0x1110000300000017);
    field("vm.rd.topology", 7, 0x9110000000000019);
    field("vm.rd.quote-max-size", 7, 0x9010000200000007);
    field("vm.rd.unknown", 7, 0x11100003000000ff);
    field("vm.rd.reserved", 7, 0x1110000301000000);
    field("vm.rd.sequence", 7, 0x1310001700000000);
    field("vm.rd.hkid", 7, 0x8110000100000001);
    register_fields("vm.rd.mrtd", 0x1310000300000000);
    register_fields("vm.rd.rtmr3", 0x1310000300000040 + 18);
    got("vm.rd", "vm-id", call(7, 1, 0x1110000300000000, 0, 0, 0));
    got("vm.rd", "version-2", call(2UL << 16 | 7, 0, 0x1110000300000000, 0, 0, 0));
    got("vm.rd", "first", call(1UL << 16 | 7, 0, NONE, 0, 0, &r));
    got("vm.rd", "next", call(1UL << 16 | 7, 0, 0x1110000300000000, 0, 0, &r));
    got("vm.rd", "next-id", r.rdx);
    got("vm.rd", "null-version-0", call(7, 0, NONE, 0, 0, 0));

    got("vm.wr", "notify-enables", call(8, 0, 0x9110000300000010, 1, 1, &r));
    got("vm.wr", "notify-enables-old", r.r8);
    field("vm.wr.notify-enables-new", 7, 0x9110000300000010);
    got("vm.wr", "read-only", call(8, 0, 0x1110000300000000, 0, NONE, 0));
    got("vm.wr", "no-mask", call(8, 0, 0x9110000300000010, 1, 0, 0));
    got("vm.wr", "forbidden-bit", call(8, 0, 0x9110000300000010, 3, NONE, 0));
    got("vm.wr", "vm-id", call(8, 1, 0x9110000300000010, 1, 1, 0));
    got("vm.wr", "unknown", call(8, 0, 0x11100003000000ff, 1, 1, 0));
    got("vm.wr", "enum-topology", call(8, 0, 0x1110000300000017, 2, 2, 0));
    got("vm.wr", "enum-topology-off", call(8, 0, 0x1110000300000017, 0, 2, 0));

    field("vp.rd.vcpu-index", 9, 0xa020000200000002);
    field("vp.rd.unknown", 9, 0xa0200003000000ff);
    got("vp.rd", "rcx", call(9, 1, 0xa020000200000002, 0, 0, 0));
    got("vp.rd", "first", call(9, 0, NONE, 0, 0, 0));
    got("vp.wr", "user-ve", call(10, 0, 0xa020000000000008, 1, 0xff, 0));
    field("vp.wr.user-ve-new", 9, 0xa020000000000008);
    got("vp.wr", "user-ve-off", call(10, 0, 0xa020000000000008, 0, 0xff, 0));
    got("vp.wr", "read-only", call(10, 0, 0xa020000200000002, 1, NONE, 0));
    got("vp.wr", "rcx", call(10, 1, 0xa020000000000008, 1, 1, 0));

    field("sys.rd.vendor-id", 11, 0x0800000200000000);
    field("sys.rd.major-version", 11, 0x0800000100000004);
    field("sys.rd.unknown", 11, 0x08000003000000ff);
    got("sys.rd", "first", call(11, 0, NONE, 0, 0, &r));
    next = r.rdx;
    got("sys.rd", "first-readable", call(11, 0, next, 0, 0, 0));
    got("sys.rdall", "ok", call(12, 0, address(list), NONE, 0, &r));
    got("sys.rdall", "next", r.r8);
    got("sys.rdall", "some", (*(u64 *)list >> 16 & 0xffff) > 0);
    got("sys.rdall", "misaligned", call(12, 0, address(list) + 8, NONE, 0, 0));
    got("sys.rdall", "shared", call(12, 0, address(list) | shared_bit, NONE, 0, 0));
    got("sys.rdall", "unknown", call(12, 0, address(list), 0x08000003000000ff, 0, 0));
}

static u64 vmcall_rcx(u64 rcx)
{
    struct registers r = { .rcx = rcx, .r11 = 0x10000 };

    tdcall(&r);
    return r.rax;
}

static void test_vmcall(void)
{
    struct registers r = { .rcx = 0xfc00, .r10 = 1, .r11 = 1 };

    got("vp.vmcall", "rcx-rax", vmcall_rcx(0xfc01));
    got("vp.vmcall", "rcx-rcx", vmcall_rcx(0xfc02));
    got("vp.vmcall", "rcx-rsp", vmcall_rcx(0xfc10));
    got("vp.vmcall", "rcx-63", vmcall_rcx(1UL << 63 | 0xfc00));
    got("vp.vmcall", "rcx-none", vmcall_rcx(0));
    tdcall(&r);
    got("vp.vmcall", "hypercall", r.r10);
    got("vp.vmcall", "unknown", vmcall(0x10005, 0, 0, 0, 0, 0));
    got("vp.vmcall", "unknown-max", vmcall(NONE, 0, 0, 0, 0, 0));

    got("vmcall.get-info", "0", vmcall(0x10000, 0, 1, 1, 1, &r));
    got("vmcall.get-info", "0-registers", r.r11 | r.r12 | r.r13 | r.r14);
    got("vmcall.get-info", "1", vmcall(0x10000, 1, 1, 1, 1, &r));
    got("vmcall.get-info", "1-r11", r.r11);
    got("vmcall.get-info", "2", vmcall(0x10000, 2, 0, 0, 0, 0));

    got("vmcall.cpuid", "vmm", vmcall(10, 0x40000000, 0, 0, 0, &r));
    got("vmcall.cpuid", "vmm-ebx", r.r13);

    got("vmcall.io", "read", vmcall(30, 1, 0, 0x80, 0, 0));
    got("vmcall.io", "size-3", vmcall(30, 3, 0, 0x80, 0, 0));
    got("vmcall.io", "size-8", vmcall(30, 8, 0, 0x80, 0, 0));
    got("vmcall.io", "direction-2", vmcall(30, 1, 2, 0x80, 0, 0));
    got("vmcall.io", "port-65536", vmcall(30, 1, 0, 0x10000, 0, 0));

    got("vmcall.mmio", "read", vmcall(48, 4, 0, 0xfec00000 | shared_bit, 0, 0));
    got("vmcall.mmio", "private", vmcall(48, 4, 0, 0xfec00000, 0, 0));
    got("vmcall.mmio", "size-3", vmcall(48, 3, 0, 0xfec00000 | shared_bit, 0, 0));
    got("vmcall.mmio", "direction-2", vmcall(48, 4, 2, 0xfec00000 | shared_bit, 0, 0));
    got("vmcall.mmio", "beyond", vmcall(48, 4, 0, shared_bit << 1 | shared_bit, 0, 0));

    got("vmcall.rdmsr", "apic-base", vmcall(31, 0x1b, 0, 0, 0, &r));
    got("vmcall.rdmsr", "apic-base-value", r.r11);
    got("vmcall.rdmsr", "vmx-basic", vmcall(31, 0x480, 0, 0, 0, 0));
    got("vmcall.rdmsr", "unknown", vmcall(31, 0x12345678, 0, 0, 0, 0));
    got("vmcall.rdmsr", "beyond", vmcall(31, 1UL << 32 | 0x1b, 0, 0, 0, 0));
    got("vmcall.rdmsr", "x2apic-reserved", vmcall(31, 0x801, 0, 0, 0, 0));
    got("vmcall.wrmsr", "apic-base", vmcall(32, 0x1b, 0, 0, 0, 0));
    got("vmcall.wrmsr", "efer", vmcall(32, 0xc0000080, 0, 0, 0, 0));
    got("vmcall.wrmsr", "unknown", vmcall(32, 0x12345678, 0, 0, 0, 0));
    got("vmcall.wrmsr", "x2apic-svr", vmcall(32, 0x80f, 0x1ff, 0, 0, 0));

    got("vmcall.map-gpa", "shared", vmcall(0x10001, (FRESH + 0x400000) | shared_bit, PAGE, 0, 0, 0));
    got("vmcall.map-gpa", "private", vmcall(0x10001, FRESH + 0x400000, PAGE, 0, 0, 0));
    got("vmcall.map-gpa", "empty", vmcall(0x10001, FRESH, 0, 0, 0, 0));
    got("vmcall.map-gpa", "misaligned", vmcall(0x10001, FRESH + 8, PAGE, 0, 0, 0));
    got("vmcall.map-gpa", "misaligned-size", vmcall(0x10001, FRESH, PAGE + 8, 0, 0, 0));
    got("vmcall.map-gpa", "wraps", vmcall(0x10001, FRESH, -PAGE, 0, 0, 0));
    got("vmcall.map-gpa", "both", vmcall(0x10001, shared_bit - PAGE, 2 * PAGE, 0, 0, 0));
    got("vmcall.map-gpa", "beyond", vmcall(0x10001, shared_bit << 1, PAGE, 0, 0, 0));

    got("vmcall.event-notify", "31", vmcall(0x10004, 31, 0, 0, 0, 0));
    got("vmcall.event-notify", "256", vmcall(0x10004, 256, 0, 0, 0, 0));
    got("vmcall.event-notify", "64", vmcall(0x10004, 64, 0, 0, 0, 0));
}

static void share(u64 gpa, u64 size)
{
    vmcall(0x10001, gpa | shared_bit, size, 0, 0, 0);
}

#define QUOTE_GPA 0x1800000UL

static void test_quote_operands(void)
{
    volatile u64 *buffer = (u64 *)SHARED(QUOTE_GPA);
    const u64 gpa = QUOTE_GPA | shared_bit;

    share(QUOTE_GPA, 0x40000);
    buffer[0] = 1;
    buffer[1] = 0;
    buffer[2] = 1024;
    got("vmcall.get-quote", "private", vmcall(0x10002, QUOTE_GPA, PAGE, 0, 0, 0));
    got("vmcall.get-quote", "misaligned", vmcall(0x10002, gpa + 8, PAGE, 0, 0, 0));
    got("vmcall.get-quote", "misaligned-size", vmcall(0x10002, gpa, PAGE + 8, 0, 0, 0));
    got("vmcall.get-quote", "empty", vmcall(0x10002, gpa, 0, 0, 0, 0));
    got("vmcall.get-quote", "too-big", vmcall(0x10002, gpa, 0x21000, 0, 0, 0));
    got("vmcall.get-quote", "huge", vmcall(0x10002, gpa, 1UL << 40, 0, 0, 0));
    got("vmcall.get-quote", "beyond", vmcall(0x10002, shared_bit << 1 | shared_bit, PAGE, 0, 0, 0));
    buffer[0] = 2;
    got("vmcall.get-quote", "version", vmcall(0x10002, gpa, PAGE, 0, 0, 0));
    buffer[0] = 1;
    buffer[2] = 4073;
    got("vmcall.get-quote", "in-len", vmcall(0x10002, gpa, PAGE, 0, 0, 0));
    buffer[2] = 1024;
    got("vmcall.get-quote", "no-service", vmcall(0x10002, gpa, PAGE, 0, 0, 0));
    got("vmcall.get-quote", "no-service-status", buffer[1]);
}

static u64 wait_quote(volatile u64 *buffer)
{
    while (buffer[1] == NONE)
        asm volatile("pause");
    return buffer[1];
}

/* Two at once, the second in the largest buffer that there can be */
static void test_quote(void)
{
    volatile u64 *one = (u64 *)SHARED(QUOTE_GPA), *two = (u64 *)SHARED(QUOTE_GPA + 0x10000);

    share(QUOTE_GPA, 0x40000);
    vmcall(32, 0x80f, 0x1ff, 0, 0, 0);
    got("quote", "event-notify", vmcall(0x10004, 64, 0, 0, 0, 0));
    for (int i = 0; i < 128; i++) {
        one[3 + i] = 0x1111111111111111;
        two[3 + i] = 0x2222222222222222;
    }
    one[0] = two[0] = 1;
    one[1] = two[1] = 0;
    one[2] = two[2] = 1024;
    got("quote", "one", vmcall(0x10002, QUOTE_GPA | shared_bit, 0x10000, 0, 0, 0));
    got("quote", "two", vmcall(0x10002, (QUOTE_GPA + 0x10000) | shared_bit, 0x20000, 0, 0, 0));
    asm volatile("sti");
    got("quote", "one-status", wait_quote(one));
    got("quote", "one-length", one[2] >> 32);
    dump("quote.one", (u8 *)&one[3], 32);
    got("quote", "two-status", wait_quote(two));
    got("quote", "two-length", two[2] >> 32);
    dump("quote.two", (u8 *)&two[3], 32);
    for (int i = 0; i < 1000 && !*(volatile u32 *)&interrupts; i++)
        vmcall(30, 1, 0, 0x80, 0, 0);
    asm volatile("cli");
    got("quote", "notified", *(volatile u32 *)&interrupts > 0);
}

static void vector(const char *what, const char *which, u32 number)
{
    struct registers r;

    got(what, which, number);
    if (number == 20) {
        call(3, 0, 0, 0, 0, &r);
        got(what, "ve-reason", r.rcx);
        got(what, "ve-qualification", r.rdx);
        got(what, "ve-gpa", r.r9);
        got(what, "ve-length", r.r10);
    }
}

static u64 read_cr0(void)
{
    u64 value;

    asm volatile("mov %%cr0, %0" : "=r"(value));
    return value;
}

static u64 read_cr4(void)
{
    u64 value;

    asm volatile("mov %%cr4, %0" : "=r"(value));
    return value;
}

static void test_native(void)
{
    vector("rdmsr", "vmx-basic", attempt_rdmsr(0x480, 0));
    vector("wrmsr", "vmx-basic", attempt_wrmsr(0x480, 0));
    vector("rdmsr", "rtit-ctl", attempt_rdmsr(0x570, 0));
    vector("rdmsr", "perf-global-ctrl", attempt_rdmsr(0x38f, 0));
    vector("rdmsr", "s-cet", attempt_rdmsr(0x6a2, 0));
    vector("rdmsr", "tme-activate", attempt_rdmsr(0x982, 0));
    vector("rdmsr", "arch-capabilities", attempt_rdmsr(0x10a, 0));
    vector("rdmsr", "efer", attempt_rdmsr(0xc0000080, 0));
    got("rdmsr", "efer-value", result);
    vector("wrmsr", "efer-same", attempt_wrmsr(0xc0000080, result));
    vector("wrmsr", "efer-nxe", attempt_wrmsr(0xc0000080, result & ~0x800UL));
    vector("rdmsr", "mtrrcap", attempt_rdmsr(0xfe, 0));
    vector("wrmsr", "apic-base", attempt_wrmsr(0x1b, 0));
    vector("cr0", "reserved-32", attempt_cr0(read_cr0() | 1UL << 32, 0));
    vector("cr0", "pe", attempt_cr0(read_cr0() & ~0x80000001UL, 0));
    vector("cr0", "ne", attempt_cr0(read_cr0() & ~0x20UL, 0));
    vector("cr0", "cd", attempt_cr0(read_cr0() | 0x40000000, 0));
    vector("cr0", "nw", attempt_cr0(read_cr0() | 0x20000000, 0));
    vector("cr0", "same", attempt_cr0(read_cr0(), 0));
    vector("cr3", "beyond", attempt_cr3(1UL << 60, 0));
    vector("cr4", "reserved-63", attempt_cr4(read_cr4() | 1UL << 63, 0));
    vector("cr4", "pae", attempt_cr4(read_cr4() & ~0x20UL, 0));
    vector("cr4", "mce", attempt_cr4(read_cr4() & ~0x40UL, 0));
    vector("cr4", "vmxe", attempt_cr4(read_cr4() | 0x2000, 0));
    vector("cr4", "same", attempt_cr4(read_cr4(), 0));
    vector("cpuid", "tdx", attempt_cpuid(0x21, 0));
    got("cpuid", "tdx-ebx", result >> 32);
    vector("cpuid", "last", attempt_cpuid(0, 0));
    got("cpuid", "last-eax", result & 0xffffffff);
    vector("cpuid", "addresses", attempt_cpuid(0x80000008, 0));
    got("cpuid", "addresses-eax", result & 0xffffffff);
    vector("cpuid", "thermal", attempt_cpuid(6, 0));
    vector("cpuid", "vmm", attempt_cpuid(0x40000000, 0));
    got("cpuidve", "on", call(5, 1, 0, 0, 0, 0));
    vector("cpuidve", "cpuid", attempt_cpuid(0, 0));
    got("cpuidve", "off", call(5, 0, 0, 0, 0, 0));
    vector("io", "in", attempt_in(0x80, 0));
    vector("rdpmc", "0", attempt_rdpmc(0, 0));
    vector("mmio", "ioapic", attempt_load(SHARED(0xfec00000), 0));
    call_stack = 1;
    vector("fetch", "shared", attempt_call(SHARED(address(data)), 0));
    call_stack = 0;
    got("fetch", "shared-error", fault_code);
}

/* VMCALL<HLT> wakes on an interrupt that RFLAGS.IF keeps out; then it is delivered. */
static void test_hlt(void)
{
    asm volatile("cli");
    vmcall(32, 0x80f, 0x1ff, 0, 0, 0);
    interrupts = 0;
    got("hlt", "self-ipi", attempt_wrmsr(0x83f, 64));
    got("hlt", "vmcall", vmcall(12, 0, 0, 0, 0, 0));
    got("hlt", "delivered-early", *(volatile u32 *)&interrupts);
    asm volatile("sti; nop; nop; cli");
    got("hlt", "delivered", *(volatile u32 *)&interrupts);
}

static void test_hlt_native(void)
{
    interrupts = 0;
    attempt_wrmsr(0x83f, 64);
    vector("hlt", "native", attempt_hlt(0, 0));
    asm volatile("cli");
    got("hlt", "native-interrupts", *(volatile u32 *)&interrupts);
}

/* A page's contents do not survive acceptance or conversion. */
static void test_page_contents(void)
{
    volatile u64 *private = (u64 *)(FRESH + 0x600000), *shared = (u64 *)SHARED(FRESH + 0x600000);

    got("page", "accept", call(6, address((void *)private), 0, 0, 0, 0));
    got("page", "accepted", *private);
    *private = 0x1234;
    share(address((void *)private), PAGE);
    got("page", "shared", *shared);
    *shared = 0x5678;
    vmcall(0x10001, address((void *)private), PAGE, 0, 0, 0);
    got("page", "accept-again", call(6, address((void *)private), 0, 0, 0, 0));
    got("page", "private-again", *private);
}

static void test_fatal(void)
{
    struct registers r = {
        .rcx = 0xffcc, .r11 = 0x10003, .r12 = mode[1],
        .r13 = 0x12345000 | shared_bit,
        .r14 = 0x3837363534333231, .r15 = 0x000a676665646362,
    };

    tdcall(&r);
    got("fatal", "returned", r.r10);
}

#define RACES 200

static void race(void)
{
    __atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&arrived, __ATOMIC_SEQ_CST) != mode[1])
        asm volatile("pause");
    for (int i = 0; i < RACES; i++)
        call(2, address(data), 2, 0, 0, 0);
    __atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST);
}

static void test_race(void)
{
    fill(data, 0x77, 64);
    race();
    while (__atomic_load_n(&finished, __ATOMIC_SEQ_CST) != mode[1])
        asm volatile("pause");
    register_fields("race.rtmr2", 0x1310000300000040 + 12);
}

/* mode[1]: which of the wrong accesses */
static void test_violation(void)
{
    switch (mode[1]) {
    case 0:
        got("violation", "private-load", attempt_load(FRESH + 0x800000, 0));
        break;
    case 1:
        got("violation", "shared-store", attempt_store(SHARED(0x805000), 1));
        break;
    case 2:
        share(FRESH + 0x800000, PAGE);
        got("violation", "private-store", attempt_store(FRESH + 0x800000, 1));
        break;
    case 3:
        share(FRESH + 0x800000, PAGE);
        got("violation", "accept", call(6, FRESH + 0x800000, 0, 0, 0, 0));
        break;
    }
}

struct __attribute__((packed)) gate {
    unsigned short low, selector, flags, middle;
    u32 high, reserved;
};

static struct gate idt[65];

static void set_gate(int number, void (*handler)(void))
{
    u64 to = (u64)handler;

    idt[number] = (struct gate){ to, 8, 0x8e00, to >> 16, to >> 32, 0 };
}

static void load_idt(void)
{
    struct __attribute__((packed)) {
        unsigned short limit;
        u64 base;
    } pointer = { sizeof(idt) - 1, (u64)idt };

    asm volatile("lidt %0" : : "m"(pointer));
}

void payload(u32 index, u32 gpaw);

void payload(u32 index, u32 gpaw)
{
    if (index) {
        if (mode[0] == MODE_RACE)
            race();
        for (;;)
            asm volatile("pause");
    }
    shared_bit = 1UL << (gpaw - 1);
    set_gate(6, vector_6);
    set_gate(8, vector_8);
    set_gate(13, vector_13);
    set_gate(14, vector_14);
    set_gate(20, vector_20);
    set_gate(64, vector_64);
    load_idt();

    print("start of test\n");
    switch (mode[0]) {
    case MODE_CALLS:
        test_leaves();
        test_measurements();
        test_pages();
        test_metadata();
        test_vmcall();
        test_quote_operands();
        test_native();
        test_hlt();
        test_hlt_native();
        if (mode[1])
            test_page_contents();
        break;
    case MODE_FATAL:
        test_fatal();
        break;
    case MODE_RACE:
        test_race();
        break;
    case MODE_QUOTE:
        test_quote();
        break;
    case MODE_VIOLATION:
        test_violation();
        break;
    }
    finish(0);
}
