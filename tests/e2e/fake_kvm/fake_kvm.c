/*
 * A /dev/kvm that knows TDX, for a QEMU without hardware: loaded into QEMU with LD_PRELOAD, it answers what
 * QEMU asks of KVM while it builds a TD. It runs no guest; QEMU is started with -S.
 *
 * Every descriptor that it gives out is a memfd, so that mmap and close work without its help. What matters
 * of a build is written to the file named by FAKE_KVM_TRACE, one line of "name key=value ..." a call; the
 * pages of each memory region go to files beside it. A request that it does not know is traced as "unknown"
 * and refused, so that a newer QEMU that wants more is seen and not guessed at.
 *
 * FAKE_KVM_WITHOUT_TDX=1 makes it the KVM of a machine without TDX.
 *
 * Sources: Linux Documentation/virt/kvm/api.rst and x86/intel-tdx.rst, include/uapi/linux/kvm.h,
 * arch/x86/include/uapi/asm/kvm.h (6.16).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))
#define KVM_IOCTL_TYPE 0xAE
#define PAGE 4096
#define VCPU_MAP (3 * PAGE) /* kvm_run, the PIO page and the coalesced MMIO ring */
#define VM_TYPE_DEFAULT 0
#define VM_TYPE_TDX 5

/* Of kernels newer than the headers that this may be compiled with. */
#define CAP_EXIT_HYPERCALL 201
#define CAP_DISABLE_QUIRKS2 213
#define CAP_USER_MEMORY2 231
#define CAP_MEMORY_ATTRIBUTES 233
#define CAP_GUEST_MEMFD 234
#define CAP_VM_TYPES 235
#define CAP_APIC_BUS_CYCLES_NS 237
#define SET_USER_MEMORY_REGION2 0x49
#define SET_MEMORY_ATTRIBUTES 0xd2
#define CREATE_GUEST_MEMFD 0xd4
#define HYPERCALL_MAP_GPA_RANGE 12

enum { TDX_CAPABILITIES, TDX_INIT_VM, TDX_INIT_VCPU, TDX_INIT_MEM_REGION, TDX_FINALIZE_VM, TDX_GET_CPUID };

struct tdx_command {
    uint32_t id, flags;
    uint64_t data, hw_error;
};

struct tdx_capabilities {
    uint64_t attributes, xfam, tdvmcall_info[4], reserved[250];
    struct kvm_cpuid2 cpuid;
};

struct tdx_init_vm {
    uint64_t attributes, xfam;
    uint8_t mrconfigid[48], mrowner[48], mrownerconfig[48];
    uint64_t reserved[12];
    struct kvm_cpuid2 cpuid;
};

struct tdx_region {
    uint64_t source, gpa, pages;
};

/* DEBUG, SEPT_VE_DISABLE, PKS and PERFMON. XFAM without AMX, for which QEMU would ask the host. */
static const uint64_t SUPPORTED_ATTRIBUTES = 1ull << 0 | 1ull << 28 | 1ull << 30 | 1ull << 63;
static const uint64_t SUPPORTED_XFAM = 0x1ae7;

/* CPUID of a 4th generation Xeon without AMX, as far as QEMU looks: leaf, sub-leaf, flags, EAX, EBX, ECX, EDX. */
#define INDEXED KVM_CPUID_FLAG_SIGNIFCANT_INDEX
static const struct kvm_cpuid_entry2 CPUID[] = {
    {0x0, 0, 0, 0x20, 0x756e6547, 0x6c65746e, 0x49656e69},
    {0x1, 0, 0, 0xc06f2, 0, 0xfffaba1f, 0x1fcbfbff},
    {0x4, 0, INDEXED, 0xfc004121, 0x02c0003f, 0x3f, 0},
    {0x4, 1, INDEXED, 0xfc004122, 0x01c0003f, 0x3f, 0},
    {0x4, 2, INDEXED, 0xfc01c143, 0x03c0003f, 0x7ff, 0},
    {0x4, 3, INDEXED, 0xfc1fc163, 0x0380003f, 0x1bfff, 4},
    {0x5, 0, 0, 0x40, 0x40, 0x3, 0x2020},
    {0x6, 0, 0, 0x4, 0, 0, 0},
    {0x7, 0, INDEXED, 0x2, 0xf1bf27eb, 0x1b415f6e, 0xac004410},
    {0x7, 1, INDEXED, 0x1c30, 0, 0, 0},
    {0x7, 2, INDEXED, 0, 0, 0, 0x17},
    {0xd, 0, INDEXED, 0x2e7, 0xa88, 0xa88, 0},
    {0xd, 1, INDEXED, 0xf, 0xa88, 0x1800, 0},
    {0xd, 2, INDEXED, 0x100, 0x240, 0, 0},
    {0xd, 5, INDEXED, 0x40, 0x440, 0, 0},
    {0xd, 6, INDEXED, 0x200, 0x480, 0, 0},
    {0xd, 7, INDEXED, 0x400, 0x680, 0, 0},
    {0xd, 9, INDEXED, 0x8, 0xa80, 0, 0},
    {0xd, 11, INDEXED, 0x10, 0, 0x1, 0},
    {0xd, 12, INDEXED, 0x18, 0, 0x1, 0},
    {0x14, 0, INDEXED, 0, 0, 0, 0},
    {0x1f, 0, INDEXED, 0, 1, 0x100, 0},
    {0x40000000, 0, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d},
    {0x40000001, 0, 0, 0x1007efb, 0, 0, 0},
    {0x80000000, 0, 0, 0x80000008, 0, 0, 0},
    {0x80000001, 0, 0, 0, 0, 0x121, 0x2c100800},
    {0x80000007, 0, 0, 0, 0, 0, 0x100},
    {0x80000008, 0, 0, 0x3934, 0x200, 0, 0},
};

static const struct {
    int capability, value;
} CAPABILITIES[] = {
    {KVM_CAP_USER_MEMORY, 1},
    {KVM_CAP_DESTROY_MEMORY_REGION_WORKS, 1},
    {KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, 1},
    {KVM_CAP_INTERNAL_ERROR_DATA, 1},
    {KVM_CAP_IOEVENTFD, 1},
    {KVM_CAP_IOEVENTFD_ANY_LENGTH, 1},
    {KVM_CAP_IRQFD, 1},
    {KVM_CAP_IRQ_ROUTING, 4096},
    {KVM_CAP_SIGNAL_MSI, 1},
    {KVM_CAP_NR_VCPUS, 64},
    {KVM_CAP_MAX_VCPUS, 1024},
    {KVM_CAP_MAX_VCPU_ID, 4096},
    {KVM_CAP_NR_MEMSLOTS, 32764},
    {KVM_CAP_IRQCHIP, 1},
    {KVM_CAP_SYNC_MMU, 1},
    {KVM_CAP_EXT_CPUID, 1},
    {KVM_CAP_MCE, 32},
    {KVM_CAP_SET_TSS_ADDR, 1},
    {KVM_CAP_SET_IDENTITY_MAP_ADDR, 1},
    {KVM_CAP_MP_STATE, 1},
    {KVM_CAP_VCPU_EVENTS, 1},
    {KVM_CAP_DEBUGREGS, 1},
    {KVM_CAP_XSAVE, 1},
    {KVM_CAP_XCRS, 1},
    {KVM_CAP_X86_ROBUST_SINGLESTEP, 1},
    {KVM_CAP_ADJUST_CLOCK, 7},
    {KVM_CAP_TSC_CONTROL, 1},
    {KVM_CAP_GET_TSC_KHZ, 1},
    {KVM_CAP_TSC_DEADLINE_TIMER, 1},
    {KVM_CAP_IMMEDIATE_EXIT, 1},
    {KVM_CAP_SPLIT_IRQCHIP, 1},
    {KVM_CAP_X2APIC_API, 3},
    {KVM_CAP_EXCEPTION_PAYLOAD, 1},
    {KVM_CAP_CHECK_EXTENSION_VM, 1},
    {KVM_CAP_X86_DISABLE_EXITS, 15},
    {CAP_EXIT_HYPERCALL, 1 << HYPERCALL_MAP_GPA_RANGE},
    {CAP_DISABLE_QUIRKS2, 0x3ff},
};

/* Those of a kernel with TDX only. */
static const struct {
    int capability, value;
} TDX_KERNEL_CAPABILITIES[] = {
    {CAP_USER_MEMORY2, 1},
    {CAP_MEMORY_ATTRIBUTES, 8},
    {CAP_GUEST_MEMFD, 1},
    {CAP_VM_TYPES, 1 << VM_TYPE_DEFAULT | 1 << VM_TYPE_TDX},
    {CAP_APIC_BUS_CYCLES_NS, 1},
};

/* Requests that change nothing here, answered with 0. */
static const uint8_t ACCEPTED[] = {
    0x46 /* SET_USER_MEMORY_REGION */, 0x47 /* SET_TSS_ADDR */, 0x48 /* SET_IDENTITY_MAP_ADDR */,
    0x60 /* CREATE_IRQCHIP */, 0x61 /* IRQ_LINE */, 0x67 /* REGISTER_COALESCED_MMIO */, 0x68,
    0x6a /* SET_GSI_ROUTING */, 0x76 /* IRQFD */, 0x79 /* IOEVENTFD */, 0x7b /* SET_CLOCK */,
    0x82 /* SET_REGS */, 0x84 /* SET_SREGS */, 0x8b /* SET_SIGNAL_MASK */, 0x8d /* SET_FPU */,
    0x8f /* SET_LAPIC */, 0x90 /* SET_CPUID2 */, 0x92 /* TPR_ACCESS_REPORTING */, 0x93 /* SET_VAPIC_ADDR */, 0x99 /* SET_MP_STATE */,
    0x9b /* SET_GUEST_DEBUG */, 0x9c /* X86_SETUP_MCE */, 0xa0 /* SET_VCPU_EVENTS */, 0xa2 /* SET_DEBUGREGS */,
    0xa5 /* SET_XSAVE */, 0xa7 /* SET_XCRS */, SET_USER_MEMORY_REGION2, SET_MEMORY_ATTRIBUTES,
};

static struct {
    int descriptors[1100]; /* those given out */
    size_t count;
    int tdx; /* whether the machine made is a TD */
    unsigned regions;
    FILE *trace;
} fake;

static void trace(const char *format, ...)
{
    va_list arguments;

    if (!fake.trace) {
        const char *path = getenv("FAKE_KVM_TRACE");
        fake.trace = fopen(path ? path : "/dev/null", "ae");
        if (!fake.trace)
            abort();
        setlinebuf(fake.trace);
    }
    va_start(arguments, format);
    vfprintf(fake.trace, format, arguments);
    va_end(arguments);
}

static int fail(int number)
{
    errno = number;
    return -1;
}

static int new_descriptor(const char *name, size_t size)
{
    int descriptor = memfd_create(name, MFD_CLOEXEC);

    if (descriptor < 0 || ftruncate(descriptor, size) || fake.count == LENGTH(fake.descriptors))
        abort();
    return fake.descriptors[fake.count++] = descriptor;
}

static int is_ours(int descriptor)
{
    for (size_t i = 0; i < fake.count; i++)
        if (fake.descriptors[i] == descriptor)
            return 1;
    return 0;
}

static int without_tdx(void)
{
    return getenv("FAKE_KVM_WITHOUT_TDX") != NULL;
}

static int check_extension(long capability)
{
    for (size_t i = 0; i < LENGTH(CAPABILITIES); i++)
        if (CAPABILITIES[i].capability == capability)
            return CAPABILITIES[i].value;
    for (size_t i = 0; i < LENGTH(TDX_KERNEL_CAPABILITIES) && !without_tdx(); i++)
        if (TDX_KERNEL_CAPABILITIES[i].capability == capability)
            return TDX_KERNEL_CAPABILITIES[i].value;
    return 0;
}

static int give_cpuid(struct kvm_cpuid2 *wanted)
{
    if (wanted->nent < LENGTH(CPUID)) {
        wanted->nent = LENGTH(CPUID);
        return fail(E2BIG);
    }
    wanted->nent = LENGTH(CPUID);
    memcpy(wanted->entries, CPUID, sizeof(CPUID));
    return 0;
}

static int give_msr_indices(struct kvm_msr_list *list)
{
    static const uint32_t INDICES[] = {0x10, 0x174, 0x175, 0x176, 0xc0000080, 0xc0000081, 0xc0000082};

    if (list->nmsrs < LENGTH(INDICES)) {
        list->nmsrs = LENGTH(INDICES);
        return fail(E2BIG);
    }
    list->nmsrs = LENGTH(INDICES);
    memcpy(list->indices, INDICES, sizeof(INDICES));
    return 0;
}

static void trace_digest(const char *name, const uint8_t *digest)
{
    trace(" %s=", name);
    for (int i = 0; i < 48; i++)
        trace("%02x", digest[i]);
}

static int init_vm(const struct tdx_init_vm *wanted)
{
    trace("init_vm attributes=%#llx xfam=%#llx", (unsigned long long)wanted->attributes,
          (unsigned long long)wanted->xfam);
    trace_digest("mrconfigid", wanted->mrconfigid);
    trace_digest("mrowner", wanted->mrowner);
    trace_digest("mrownerconfig", wanted->mrownerconfig);
    trace("\n");
    if (wanted->attributes & ~SUPPORTED_ATTRIBUTES || wanted->xfam & ~SUPPORTED_XFAM)
        return fail(EINVAL);
    return 0;
}

static int init_region(const struct tdx_region *region, uint32_t flags)
{
    const char *beside = getenv("FAKE_KVM_TRACE");
    char path[PAGE];
    FILE *pages;

    trace("init_mem_region gpa=%#llx pages=%llu measured=%u file=%u\n", (unsigned long long)region->gpa,
          (unsigned long long)region->pages, flags & 1, fake.regions);
    if (!beside)
        return 0;
    snprintf(path, sizeof(path), "%s.%u", beside, fake.regions++);
    pages = fopen(path, "we");
    if (!pages || fwrite((const void *)region->source, PAGE, region->pages, pages) != region->pages ||
        fclose(pages))
        abort();
    return 0;
}

static int encrypt_op(struct tdx_command *command)
{
    void *data = (void *)command->data;

    if (!fake.tdx)
        return fail(ENOTTY);
    command->hw_error = 0;
    switch (command->id) {
    case TDX_CAPABILITIES: {
        struct tdx_capabilities *capabilities = data;
        memset(capabilities, 0, offsetof(struct tdx_capabilities, cpuid));
        capabilities->attributes = SUPPORTED_ATTRIBUTES;
        capabilities->xfam = SUPPORTED_XFAM;
        return give_cpuid(&capabilities->cpuid);
    }
    case TDX_INIT_VM:
        return init_vm(data);
    case TDX_INIT_VCPU:
        trace("init_vcpu rcx=%#llx\n", (unsigned long long)command->data);
        return 0;
    case TDX_INIT_MEM_REGION:
        return init_region(data, command->flags);
    case TDX_FINALIZE_VM:
        trace("finalize_vm\n");
        return 0;
    case TDX_GET_CPUID:
        return give_cpuid(data);
    }
    trace("unknown tdx=%u\n", command->id);
    return fail(EINVAL);
}

static int create_vm(long type)
{
    trace("create_vm type=%ld\n", type);
    if (type != VM_TYPE_DEFAULT && (type != VM_TYPE_TDX || without_tdx()))
        return fail(EINVAL);
    fake.tdx = type == VM_TYPE_TDX;
    return new_descriptor("fake-kvm-vm", 0);
}

static int request(int descriptor, unsigned long number, long argument)
{
    void *data = (void *)argument;

    switch (number & 0xff) {
    case 0x00: /* GET_API_VERSION */
        return KVM_API_VERSION;
    case 0x01:
        return create_vm(argument);
    case 0x02:
        return give_msr_indices(data);
    case 0x03:
        return check_extension(argument);
    case 0x04: /* GET_VCPU_MMAP_SIZE */
        return VCPU_MAP;
    case 0x05: /* GET_SUPPORTED_CPUID */
        return give_cpuid(data);
    case 0x0a: /* GET_MSR_FEATURE_INDEX_LIST */
        ((struct kvm_msr_list *)data)->nmsrs = 0;
        return 0;
    case 0x41:
        return new_descriptor("fake-kvm-vcpu", VCPU_MAP);
    case 0x7c: /* GET_CLOCK */
        memset(data, 0, sizeof(struct kvm_clock_data));
        return 0;
    case 0x9d: /* X86_GET_MCE_CAP_SUPPORTED */
        *(uint64_t *)data = 0x1000c20 | 32;
        return 0;
    case 0x80: /* RUN: never reached, for the machine is not started */
        trace("run\n");
        pause();
        return fail(EINTR);
    case 0x88: /* GET_MSRS */
    case 0x89: /* SET_MSRS */
        return ((struct kvm_msrs *)data)->nmsrs;
    case 0xa3: /* GET_TSC_KHZ takes no argument, ENABLE_CAP a structure */
        if (_IOC_SIZE(number) == 0)
            return 2000000;
        trace("enable_cap cap=%u\n", ((struct kvm_enable_cap *)data)->cap);
        return 0;
    case 0xba:
        return encrypt_op(data);
    case 0xce: /* GET_STATS_FD */
        return fail(ENOTTY);
    case CREATE_GUEST_MEMFD:
        return new_descriptor("fake-guest-memfd", *(uint64_t *)data);
    }
    for (size_t i = 0; i < LENGTH(ACCEPTED); i++)
        if (ACCEPTED[i] == (number & 0xff))
            return 0;
    trace("unknown ioctl=%#lx on=%d\n", number, descriptor);
    return fail(ENOTTY);
}

int ioctl(int descriptor, unsigned long number, ...)
{
    va_list arguments;
    long argument;

    va_start(arguments, number);
    argument = va_arg(arguments, long);
    va_end(arguments);
    number &= 0xffffffff;
    if (_IOC_TYPE(number) != KVM_IOCTL_TYPE || !is_ours(descriptor))
        return syscall(SYS_ioctl, descriptor, number, argument);
    return request(descriptor, number, argument);
}

/* Whether it was found under the one name or the other depends on how QEMU was compiled. */
int open(const char *path, int flags, ...)
{
    va_list arguments;
    mode_t mode;

    if (!strcmp(path, "/dev/kvm"))
        return new_descriptor("fake-kvm", 0);
    va_start(arguments, flags);
    mode = va_arg(arguments, mode_t);
    va_end(arguments);
    return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));
int __open_2(const char *path, int flags) { return open(path, flags); }
int __open64_2(const char *path, int flags) { return open(path, flags); }
