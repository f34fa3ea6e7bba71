/*
 * memread.h - reads of our own memory that fail instead of faulting.
 *
 * Who walks the structures of a running thread meets pointers that are freed
 * meanwhile. Here the kernel does the reading: an address that is gone is
 * -EFAULT, not a crash. There are three ways, and a container may refuse any:
 *
 *   process_vm_readv   no descriptor, many places in one call: the first choice
 *   /proc/self/mem     where seccomp refuses that call
 *   a pipe             write() from the address, read() back: without /proc too
 *
 * A refusal may also come later (a filter installed after the start), so every
 * failed read is followed by a read of a known word; when that fails as well
 * the next way is taken. Descriptors live between _begin() and _end() only: an
 * application that closes "all" descriptors must not make us read, or write,
 * one of its own.
 *
 * One thread at a time per object. No allocation, no Python, no GIL.
 */
#ifndef LG_MEMREAD_H
#define LG_MEMREAD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum lg_memread_way {
    LG_MEMREAD_VM,              /* process_vm_readv */
    LG_MEMREAD_MEM,             /* pread of /proc/self/mem */
    LG_MEMREAD_PIPE,            /* write to a pipe, read from it */
    LG_MEMREAD_NONE,            /* all three are refused */
};

struct lg_memread {             /* owned by the caller; see lg_memread_init() */
    enum lg_memread_way way;
    pid_t pid;
    int mem_fd;                 /* -1 outside of begin..end */
    int pipe_fds[2];            /* likewise */
    uint64_t witness;           /* the known word */
};

/* One piece of a gathered read. */
struct lg_memspan {
    uint64_t addr;
    void *out;
    size_t size_bytes;
};

/* Chooses the first way that works. Returns 0, or -EACCES when none does. */
int lg_memread_init(struct lg_memread *mr);

/* Brackets one or more reads. _begin() returns 0 or -errno (-EMFILE when the
 * process has no descriptor left; the next call may succeed). */
int lg_memread_begin(struct lg_memread *mr);
void lg_memread_end(struct lg_memread *mr);

/* Copies `size_bytes` at `addr`. Returns 0, -EFAULT when the memory is not
 * there, or -EACCES when no way is left. `out` is undefined on failure. */
int lg_memread_copy(struct lg_memread *mr, uint64_t addr, void *out, size_t size_bytes);

/* The same for many pieces, in their order, with as few calls as the way
 * allows. All or nothing. */
int lg_memread_gather(struct lg_memread *mr, const struct lg_memspan *spans, size_t count);

/* In the child, before the next read: the way may name the parent's memory. */
void lg_memread_after_fork(struct lg_memread *mr);

/* "process_vm_readv", "/proc/self/mem", "pipe" or "none". */
const char *lg_memread_name(const struct lg_memread *mr);

#endif
