/*
 * memread.c - reads of our own memory that fail instead of faulting.
 *
 * One thread at a time per object; no GIL, no allocation, only system calls
 * that are async-signal-safe.
 */
#include "memread.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Pieces per system call: two arrays of this size lie on the stack. */
#define BATCH 64
#define WITNESS 0x6c6f6f7067756172ULL

/* What a way is measured by: about the reads of one capture. */
#define TRIAL_PIECES 20
#define TRIAL_ROUNDS 4

static uint64_t trial_ns(struct lg_memread *mr, enum lg_memread_way way);
static int open_way(struct lg_memread *mr);
static void close_descriptor(int *fd);
static enum lg_memread_way untried_way(const struct lg_memread *mr, const bool *tried);
static int read_spans(struct lg_memread *mr, const struct lg_memspan *spans, size_t count);
static int read_batch(const struct lg_memread *mr, const struct lg_memspan *spans, size_t count);
static int read_by_vm(pid_t pid, const struct iovec *here, const struct iovec *there, size_t count,
                      size_t total);
static int read_by_pipe(const int fds[2], struct iovec *here, struct iovec *there, size_t count);
static void advance(struct iovec **vec, size_t size_bytes);
static int read_by_mem(int fd, const struct lg_memspan *span);
static bool sees_witness(struct lg_memread *mr);
static uint64_t now_ns(void);

int
lg_memread_init(struct lg_memread *mr)
{
    *mr = (struct lg_memread){
        .pid = getpid(),
        .mem_fd = -1,
        .pipe_fds = {-1, -1},
        .witness = WITNESS,
    };
    uint64_t best_ns = UINT64_MAX;
    enum lg_memread_way best = LG_MEMREAD_NONE;
    for (int way = 0; way < LG_MEMREAD_WAYS; way++) {
        if (way == LG_MEMREAD_MEM && best != LG_MEMREAD_NONE) {
            break;              /* never the fastest: for need only */
        }
        uint64_t ns = trial_ns(mr, (enum lg_memread_way)way);
        if (ns < best_ns) {
            best_ns = ns;
            best = (enum lg_memread_way)way;
        }
    }
    mr->way = best;
    return best == LG_MEMREAD_NONE ? -EACCES : 0;
}

void
lg_memread_begin(struct lg_memread *mr)
{
    mr->nested++;
}

void
lg_memread_end(struct lg_memread *mr)
{
    if (--mr->nested == 0) {
        close_descriptor(&mr->mem_fd);
        close_descriptor(&mr->pipe_fds[0]);
        close_descriptor(&mr->pipe_fds[1]);
    }
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
    int err = -EACCES;
    bool tried[LG_MEMREAD_WAYS] = {false};
    lg_memread_begin(mr);
    while (mr->way != LG_MEMREAD_NONE) {
        err = open_way(mr);
        if (err == 0) {
            err = read_spans(mr, spans, count);
            if (err == 0 || sees_witness(mr)) {
                break;
            }
            err = -EACCES;
        }
        /* The way does not even read the witness. Want of descriptors passes;
         * anything else is a refusal, and those last. */
        tried[mr->way] = true;
        mr->refused[mr->way] = err != -EMFILE;
        enum lg_memread_way next = untried_way(mr, tried);
        if (next == LG_MEMREAD_NONE && err == -EMFILE) {
            break;
        }
        mr->way = next;
    }
    lg_memread_end(mr);
    return err;
}

void
lg_memread_after_fork(struct lg_memread *mr)
{
    /* A descriptor of /proc/self/mem still names the parent, and so does pid.
     * The fork may have come in the middle of another thread's capture. */
    mr->nested = 1;
    lg_memread_end(mr);
    mr->pid = getpid();
}

const char *
lg_memread_name(const struct lg_memread *mr)
{
    switch (mr->way) {
    case LG_MEMREAD_VM:
        return "process_vm_readv";
    case LG_MEMREAD_PIPE:
        return "pipe";
    case LG_MEMREAD_MEM:
        return "/proc/self/mem";
    case LG_MEMREAD_NONE:
        break;
    }
    return "none";
}

/* The best time of a few rounds, or UINT64_MAX when the way is refused. */
static uint64_t
trial_ns(struct lg_memread *mr, enum lg_memread_way way)
{
    char from[TRIAL_PIECES][128] = {{0}};
    char to[TRIAL_PIECES][128];
    struct lg_memspan spans[TRIAL_PIECES];
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < TRIAL_PIECES; i++) {
        spans[i] = (struct lg_memspan){(uint64_t)(uintptr_t)from[i], to[i], sizeof(to[i])};
    }
    for (int round = 0; round < TRIAL_ROUNDS; round++) {
        uint64_t start = now_ns();
        mr->way = way;
        lg_memread_begin(mr);
        int err = open_way(mr);
        if (err == 0 && sees_witness(mr)) {
            err = read_spans(mr, spans, TRIAL_PIECES);
        }
        else if (err != -EMFILE) {
            mr->refused[way] = true;
            err = -EACCES;
        }
        lg_memread_end(mr);
        uint64_t ns = now_ns() - start;
        if (err == 0 && ns < best) {
            best = ns;
        }
    }
    return best;
}

static int
open_way(struct lg_memread *mr)
{
    int err = 0;
    if (mr->way == LG_MEMREAD_MEM && mr->mem_fd < 0) {
        mr->mem_fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
        err = mr->mem_fd < 0 ? -errno : 0;
    }
    else if (mr->way == LG_MEMREAD_PIPE && mr->pipe_fds[0] < 0) {
        /* Not blocking: a pipe over the user's limit holds one page only. */
        err = pipe2(mr->pipe_fds, O_CLOEXEC | O_NONBLOCK) < 0 ? -errno : 0;
    }
    return err == -ENFILE ? -EMFILE : err;
}

static void
close_descriptor(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

static enum lg_memread_way
untried_way(const struct lg_memread *mr, const bool *tried)
{
    for (int way = 0; way < LG_MEMREAD_WAYS; way++) {
        if (!mr->refused[way] && !tried[way]) {
            return (enum lg_memread_way)way;
        }
    }
    return LG_MEMREAD_NONE;
}

static int
read_spans(struct lg_memread *mr, const struct lg_memspan *spans, size_t count)
{
    int err = 0;
    if (mr->way == LG_MEMREAD_MEM) {
        for (size_t i = 0; i < count && err == 0; i++) {
            err = read_by_mem(mr->mem_fd, &spans[i]);
        }
        return err;
    }
    for (size_t done = 0; done < count && err == 0; done += BATCH) {
        err = read_batch(mr, spans + done, count - done < BATCH ? count - done : BATCH);
    }
    return err;
}

static int
read_batch(const struct lg_memread *mr, const struct lg_memspan *spans, size_t count)
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
    return mr->way == LG_MEMREAD_VM ? read_by_vm(mr->pid, here, there, count, total)
                                    : read_by_pipe(mr->pipe_fds, here, there, count);
}

static int
read_by_vm(pid_t pid, const struct iovec *here, const struct iovec *there, size_t count,
           size_t total)
{
    ssize_t n = process_vm_readv(pid, here, count, there, count, 0);
    /* Less than asked for: the rest is not mapped. */
    return n >= 0 && (size_t)n == total ? 0 : -EFAULT;
}

static int
read_by_pipe(const int fds[2], struct iovec *here, struct iovec *there, size_t count)
{
    struct iovec *end = here + count;
    while (here < end) {
        int left = (int)(end - here);
        /* Not by libc's name: a sanitizer's or another tool's writev() looks at
         * the bytes itself, and then it is the one to fault. */
        ssize_t put = syscall(SYS_writev, fds[1], there, left);
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            return -EFAULT;
        }
        /* The bytes are in the pipe, so this neither waits nor comes short. */
        if (readv(fds[0], here, left) != put) {
            return -EFAULT;
        }
        advance(&here, (size_t)put);
        advance(&there, (size_t)put);
    }
    return 0;
}

static void
advance(struct iovec **vec, size_t size_bytes)
{
    while (size_bytes > 0) {
        if (size_bytes < (*vec)->iov_len) {
            (*vec)->iov_base = (char *)(*vec)->iov_base + size_bytes;
            (*vec)->iov_len -= size_bytes;
            return;
        }
        size_bytes -= (*vec)->iov_len;
        (*vec)++;
    }
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

static bool
sees_witness(struct lg_memread *mr)
{
    uint64_t word = 0;
    struct lg_memspan span = {(uint64_t)(uintptr_t)&mr->witness, &word, sizeof(word)};
    return read_spans(mr, &span, 1) == 0 && word == mr->witness;
}

static uint64_t
now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}
