/*
 * syscalls.h - names of system calls that block, and what kind of waiting each
 * is; for stalls that no hook stands before.
 */
#ifndef LG_AGENT_SYSCALLS_H
#define LG_AGENT_SYSCALLS_H

#include <stdbool.h>

#include "../../common/lg_layout.h"

struct lg_syscall {
    long number;
    const char *name;
    enum lg_cause cause;
    bool first_is_fd;
    bool is_futex;
};

/* NULL: not one of those listed. */
const struct lg_syscall *lg_syscall_find(long number);

#endif
