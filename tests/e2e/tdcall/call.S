# SPDX-License-Identifier: Apache-2.0

        .section .text.entry, "ax"
        .globl  entry, mode
entry:
        jmp     payload
        .org    entry + 8
mode:   .quad   0                       # patched into the image: what to run
        .quad   0                       # and with which optional parameter

        .text

# void tdcall(struct registers *): RAX, RCX, RDX, RBX, RSI, RDI, R8 to R15
        .globl  tdcall
tdcall:
        pushq   %rbx
        pushq   %rbp
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        pushq   %rdi
        movq    %rdi, %rbp
        movq    0x00(%rbp), %rax
        movq    0x08(%rbp), %rcx
        movq    0x10(%rbp), %rdx
        movq    0x18(%rbp), %rbx
        movq    0x20(%rbp), %rsi
        movq    0x28(%rbp), %rdi
        movq    0x30(%rbp), %r8
        movq    0x38(%rbp), %r9
        movq    0x40(%rbp), %r10
        movq    0x48(%rbp), %r11
        movq    0x50(%rbp), %r12
        movq    0x58(%rbp), %r13
        movq    0x60(%rbp), %r14
        movq    0x68(%rbp), %r15
        .byte   0x66, 0x0f, 0x01, 0xcc
        popq    %rbp
        movq    %rax, 0x00(%rbp)
        movq    %rcx, 0x08(%rbp)
        movq    %rdx, 0x10(%rbp)
        movq    %rbx, 0x18(%rbp)
        movq    %rsi, 0x20(%rbp)
        movq    %rdi, 0x28(%rbp)
        movq    %r8, 0x30(%rbp)
        movq    %r9, 0x38(%rbp)
        movq    %r10, 0x40(%rbp)
        movq    %r11, 0x48(%rbp)
        movq    %r12, 0x50(%rbp)
        movq    %r13, 0x58(%rbp)
        movq    %r14, 0x60(%rbp)
        movq    %r15, 0x68(%rbp)
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbp
        popq    %rbx
        ret

# unsigned attempt_*(a, b): run one instruction; the vector that it raised, or -1
        .macro  begin name
        .globl  attempt_\name
attempt_\name:
        pushq   %rbx
        movq    %rsi, %rdx
        leaq    9f(%rip), %rax
        movq    %rax, resume(%rip)
        movl    $-1, fault_vector(%rip)
        .endm

        .macro  end
9:      movl    fault_vector(%rip), %eax
        movq    $0, resume(%rip)
        popq    %rbx
        ret
        .endm

        begin   rdmsr
        movl    %edi, %ecx
        rdmsr
        movl    %eax, result(%rip)
        movl    %edx, result + 4(%rip)
        end

        begin   wrmsr
        movl    %edi, %ecx
        movl    %edx, %eax
        shrq    $32, %rdx
        wrmsr
        end

        begin   cr0
        movq    %rdi, %cr0
        end

        begin   cr3
        movq    %rdi, %cr3
        end

        begin   cr4
        movq    %rdi, %cr4
        end

        begin   cpuid
        movl    %edi, %eax
        movl    %edx, %ecx
        cpuid
        movl    %eax, result(%rip)
        movl    %ebx, result + 4(%rip)
        end

        begin   in
        movl    %edi, %edx
        inb     %dx, %al
        end

        begin   hlt
        sti
        hlt
        end

        begin   rdpmc
        movl    %edi, %ecx
        rdpmc
        end

        begin   load
        movl    (%rdi), %eax
        movl    %eax, result(%rip)
        movl    $0, result + 4(%rip)
        end

        begin   store
        movl    %edx, (%rdi)
        end

        begin   call
        callq   *%rdi
        end

# Exceptions: note the vector and go on where attempt_* says. Without that the test ends.
        .macro  vector number, code
        .globl  vector_\number
vector_\number:
        .if \code == 0
        pushq   $0
        .endif
        pushq   $\number
        jmp     fault
        .endm

        vector  6, 0
        vector  8, 1
        vector  13, 1
        vector  14, 1
        vector  20, 0

fault:
        pushq   %rax
        movl    8(%rsp), %eax
        movl    %eax, fault_vector(%rip)
        movq    16(%rsp), %rax
        movq    %rax, fault_code(%rip)
        movq    resume(%rip), %rax
        testq   %rax, %rax
        jz      1f
        movq    %rax, 24(%rsp)
        popq    %rax
        addq    $16, %rsp
        cmpl    $14, fault_vector(%rip)
        jne     2f
        cmpq    $0, call_stack(%rip)    # a call that could not fetch has pushed its return address
        je      2f
        addq    $8, 24(%rsp)
2:      iretq
1:      movl    8(%rsp), %edi
        movq    24(%rsp), %rsi
        call    unexpected

        .globl  vector_64
vector_64:
        pushq   %rax
        pushq   %rcx
        pushq   %rdx
        incl    interrupts(%rip)
        movl    $0x80b, %ecx            # EOI
        xorl    %eax, %eax
        xorl    %edx, %edx
        wrmsr
        popq    %rdx
        popq    %rcx
        popq    %rax
        iretq

        .bss
        .globl  fault_vector, fault_code, resume, result, interrupts, call_stack
        .balign 8
resume: .quad   0
result: .quad   0
fault_code: .quad 0
call_stack: .quad 0
fault_vector: .long 0
interrupts: .long 0

        .section .note.GNU-stack, "", @progbits
