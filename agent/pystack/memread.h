/*
 * memread.h - reads of our own memory that fail instead of faulting.
 *
 * Who walks the structures of a running thread meets pointers that are freed
 * meanwhile. Here the kernel does the reading: an address that is gone is
 * -EFAULT, not a crash. There are three ways, and a container may refuse any:
 *
 *   process_vm_readv   no descriptor; pins every page it reads
 *   a pipe             writev() from there, readv() here; two descriptors, but
 *                      an ordinary copy: 9 times faster for 20 pieces where
 *                      pinning is slow (nested virtual machines)
 *   /proc/self/mem     one descriptor, one call per piece
 *
 * lg_memread_init() takes the faster of the first two. A refusal may come later
 * (a seccomp filter installed after the start), so a failed read is followed
 * by a read of a known word; when that fails as well, the way counts as refused
 * and another is taken.
 *
 * Descriptors live between _begin() and _end() only, and are opened at the
 * first read that needs them: an application that closes "all" descriptors must
 * not make us read, or write, one of its own.
 *
 * One thread at a time per object. No allocation, no Python, no GIL.
 */
#ifndef LG_MEMREAD_H
#define LG_MEMREAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum lg_memread_way {
    LG_MEMREAD_VM,              /* process_vm_readv */
    LG_MEMREAD_PIPE,
    LG_MEMREAD_MEM,             /* pread of /proc/self/mem */
    LG_MEMREAD_WAYS,
    LG_MEMREAD_NONE = LG_MEMREAD_WAYS,
};

struct lg_memread {             /* owned by the caller; see lg_memread_init() */
    enum lg_memread_way way;    /* in use, or to be used first */
    bool refused[LG_MEMREAD_WAYS];
    pid_t pid;
    int nested;                 /* begins without their end */
    int mem_fd;                 /* -1 while not open */
    int pipe_fds[2];            /* likewise */
    uint64_t witness;           /* the known word */
};

/* One piece of a gathered read. */
struct lg_memspan {
    uint64_t addr;
    void *out;
    size_t size_bytes;
};

/* Tries the ways and chooses one. Returns 0, or -EACCES when none works. */
int lg_memread_init(struct lg_memread *mr);

/* Brackets one or more reads; may be nested. */
void lg_memread_begin(struct lg_memread *mr);
void lg_memread_end(struct lg_memread *mr);

/* Copies `size_bytes` at `addr`. Returns 0; -EFAULT when the memory is not
 * there; -EMFILE when the only ways left need a descriptor and there is none
 * just now; -EACCES when no way is left. `out` is undefined on failure. */
int lg_memread_copy(struct lg_memread *mr, uint64_t addr, void *out, size_t size_bytes);

/* The same for many pieces, in their order, with as few calls as the way
 * allows. All or nothing. */
int lg_memread_gather(struct lg_memread *mr, const struct lg_memspan *spans, size_t count);

/* In the child, before the next read: the way may name the parent's memory. */
void lg_memread_after_fork(struct lg_memread *mr);

/* "process_vm_readv", "pipe", "/proc/self/mem" or "none". */
const char *lg_memread_name(const struct lg_memread *mr);

#endif
