# SPDX-License-Identifier: Apache-2.0
#
# The last 4 KiB of the test firmware: from the TD's reset vector to long mode and the payload, which is copied to RAM.
# Metadata and the table of GUIDs are put between code and vector by the test that builds the image.
#
# A TD's vCPU starts in flat 32 bit protected mode with EFER.LME set; EBX is the GPA width, ECX the TD HOB's address and
# ESI the index of the vCPU.

        .set    PAGES, 0x800000         # PML4, then page directory pointers: private, shared
        .set    PAYLOAD, 0x900000
        .set    IMAGE, 0xffff0000
        .set    PAYLOAD_DWORDS, 0x3800  # 56 KiB

        .text
        .code32
base:
start32:
        cmpl    $0, %esi
        jne     others

        movl    $PAGES + 0x1007, PAGES
        movl    $PAGES + 0x2007, PAGES + 8
        movl    $0, %edi
fill:                                   # 4 GiB, in pages of 1 GiB, without and with the shared bit
        movl    %edi, %eax
        shll    $30, %eax
        orl     $0xe3, %eax
        movl    %eax, PAGES + 0x1000(, %edi, 8)
        movl    %eax, PAGES + 0x2000(, %edi, 8)
        movl    $0, PAGES + 0x1004(, %edi, 8)
        movl    $0x8000, %eax           # bit 47
        cmpb    $48, %bl
        je      1f
        movl    $0x80000, %eax          # bit 51
1:      movl    %eax, PAGES + 0x2004(, %edi, 8)
        incl    %edi
        cmpl    $4, %edi
        jne     fill

        movl    $IMAGE, %esi
        movl    $PAYLOAD, %edi
        movl    %ecx, %ebp
        movl    $PAYLOAD_DWORDS, %ecx
        cld
        rep movsl
        movl    %ebp, %ecx
        movl    $0, %esi
        movl    $1, PAGES + 0x3000      # let the others in
        jmp     long_mode

others:
        pause
        cmpl    $1, PAGES + 0x3000
        jne     others

long_mode:
        movl    $PAGES, %eax
        movl    %eax, %cr3
        movl    %cr4, %eax
        orl     $0x20, %eax
        movl    %eax, %cr4
        lgdtl   gdt_pointer
        movl    %cr0, %eax
        orl     $0x80000000, %eax
        movl    %eax, %cr0
        ljmpl   $8, $start64

        .code64
start64:
        movl    $16, %eax
        movl    %eax, %ss
        movl    %eax, %ds
        movl    %eax, %es
        movl    %esi, %edi              # index
        movl    %ebx, %esi              # GPA width
        movl    %ecx, %edx              # TD HOB
        movl    %edi, %esp
        shll    $12, %esp
        addl    $0x811000, %esp         # 4 KiB of stack each
        movl    $PAYLOAD, %eax
        jmp     *%rax

        .balign 8
gdt:    .quad   0
        .quad   0x00af9b000000ffff
        .quad   0x00cf93000000ffff
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt

        .org    0xff0 - 0x0, 0
        .code32
        jmp     start32
        .org    0x1000, 0
