/*
 * memread.c - reads of our own memory that fail instead of faulting.
 *
 * One thread at a time per object; no GIL, no allocation, only system calls
 * that are async-signal-safe.
 */
#include "memread.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/uio.h>
#include <unistd.h>

/* Pieces per process_vm_readv call: two arrays of this size lie on the stack. */
#define BATCH 64
/* Bytes per trip through the pipe. A pipe over the user's limit has one page. */
#define PIPE_TRIP 4096
#define WITNESS 0x6c6f6f7067756172ULL

static int open_descriptors(struct lg_memread *mr);
static void close_descriptor(int *fd);
static int read_spans(struct lg_memread *mr, const struct lg_memspan *spans, size_t count);
static int read_by_vm(const struct lg_memread *mr, const struct lg_memspan *spans, size_t count);
static int read_by_mem(int fd, const struct lg_memspan *span);
static int read_by_pipe(const int fds[2], const struct lg_memspan *span);
static bool sees_witness(struct lg_memread *mr);

int
lg_memread_init(struct lg_memread *mr)
{
    mr->way = LG_MEMREAD_VM;
    mr->pid = getpid();
    mr->mem_fd = -1;
    mr->pipe_fds[0] = -1;
    mr->pipe_fds[1] = -1;
    mr->witness = WITNESS;
    int err = lg_memread_begin(mr);
    if (err == 0) {
        uint64_t word;
        err = lg_memread_copy(mr, (uint64_t)(uintptr_t)&mr->witness, &word, sizeof(word));
        lg_memread_end(mr);
    }
    return err == 0 ? 0 : -EACCES;
}

int
lg_memread_begin(struct lg_memread *mr)
{
    for (; mr->way < LG_MEMREAD_NONE; mr->way++) {
        int err = open_descriptors(mr);
        if (err == 0 || err == -EMFILE || err == -ENFILE) {
            return err;         /* too many open files passes; a refusal stays */
        }
    }
    return -EACCES;
}

void
lg_memread_end(struct lg_memread *mr)
{
    close_descriptor(&mr->mem_fd);
    close_descriptor(&mr->pipe_fds[0]);
    close_descriptor(&mr->pipe_fds[1]);
}

int
lg_memread_copy(struct lg_memread *mr, uint64_t addr, void *out, size_t size_bytes)
{
    struct lg_memspan span = {addr, out, size_bytes};
    return lg_memread_gather(mr, &span, 1);
}

int
lg_memread_gather(struct lg_memread *mr, const struct lg_memspan *spans, size_t count)
{
    while (mr->way != LG_MEMREAD_NONE) {
        if (read_spans(mr, spans, count) == 0) {
            return 0;
        }
        if (sees_witness(mr)) {
            return -EFAULT;
        }
        /* It does not even read the witness: the way is refused from now on. */
        lg_memread_end(mr);
        mr->way++;
        int err = lg_memread_begin(mr);
        if (err != 0) {
            return err;
        }
    }
    return -EACCES;
}

void
lg_memread_after_fork(struct lg_memread *mr)
{
    /* A descriptor of /proc/self/mem still names the parent, and so does pid. */
    lg_memread_end(mr);
    mr->pid = getpid();
}

const char *
lg_memread_name(const struct lg_memread *mr)
{
    switch (mr->way) {
    case LG_MEMREAD_VM:
        return "process_vm_readv";
    case LG_MEMREAD_MEM:
        return "/proc/self/mem";
    case LG_MEMREAD_PIPE:
        return "pipe";
    case LG_MEMREAD_NONE:
        break;
    }
    return "none";
}

static int
open_descriptors(struct lg_memread *mr)
{
    if (mr->way == LG_MEMREAD_MEM && mr->mem_fd < 0) {
        mr->mem_fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
        return mr->mem_fd < 0 ? -errno : 0;
    }
    if (mr->way == LG_MEMREAD_PIPE && mr->pipe_fds[0] < 0) {
        /* Never block: a full or foreign pipe must be an error. */
        return pipe2(mr->pipe_fds, O_CLOEXEC | O_NONBLOCK) < 0 ? -errno : 0;
    }
    return 0;
}

static void
close_descriptor(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

static int
read_spans(struct lg_memread *mr, const struct lg_memspan *spans, size_t count)
{
    if (mr->way == LG_MEMREAD_VM) {
        for (size_t done = 0; done < count; done += BATCH) {
            size_t n = count - done < BATCH ? count - done : BATCH;
            int err = read_by_vm(mr, spans + done, n);
            if (err != 0) {
                return err;
            }
        }
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        int err = mr->way == LG_MEMREAD_MEM ? read_by_mem(mr->mem_fd, &spans[i])
                                            : read_by_pipe(mr->pipe_fds, &spans[i]);
        if (err != 0) {
            return err;
        }
    }
    return 0;
}

static int
read_by_vm(const struct lg_memread *mr, const struct lg_memspan *spans, size_t count)
{
    struct iovec here[BATCH];
    struct iovec there[BATCH];
    size_t total = 0;
    for (size_t i = 0; i < count; i++) {
        here[i].iov_base = spans[i].out;
        there[i].iov_base = (void *)(uintptr_t)spans[i].addr;
        here[i].iov_len = there[i].iov_len = spans[i].size_bytes;
        total += spans[i].size_bytes;
    }
    ssize_t n = process_vm_readv(mr->pid, here, count, there, count, 0);
    /* Less than asked for: the rest is not mapped. */
    return n >= 0 && (size_t)n == total ? 0 : -EFAULT;
}

static int
read_by_mem(int fd, const struct lg_memspan *span)
{
    char *out = span->out;
    size_t done = 0;
    while (done < span->size_bytes) {
        ssize_t n = pread(fd, out + done, span->size_bytes - done, (off_t)(span->addr + done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return -EFAULT;
        }
        done += (size_t)n;
    }
    return 0;
}

static int
read_by_pipe(const int fds[2], const struct lg_memspan *span)
{
    char *out = span->out;
    size_t done = 0;
    while (done < span->size_bytes) {
        size_t left = span->size_bytes - done;
        const void *from = (const void *)(uintptr_t)(span->addr + done);
        ssize_t put = write(fds[1], from, left < PIPE_TRIP ? left : PIPE_TRIP);
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            return -EFAULT;
        }
        /* The bytes are in the pipe, so this neither waits nor comes short. */
        ssize_t got = read(fds[0], out + done, (size_t)put);
        if (got != put) {
            return -EFAULT;
        }
        done += (size_t)put;
    }
    return 0;
}

static bool
sees_witness(struct lg_memread *mr)
{
    uint64_t word = 0;
    struct lg_memspan span = {(uint64_t)(uintptr_t)&mr->witness, &word, sizeof(word)};
    return read_spans(mr, &span, 1) == 0 && word == mr->witness;
}
