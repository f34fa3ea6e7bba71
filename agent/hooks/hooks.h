/*
 * hooks.h - what the libc functions in our slots do: poll, blocking calls,
 * waits for the GIL.
 *
 * A thread that has attached a `struct lg_calls` (an event loop's thread) gets
 * every hooked call timed into it; any other thread pays one thread-local
 * load. No Python, no segment, no allocation, no lock: only the calling
 * thread writes its struct, with or without the GIL, in signal handlers too.
 *
 *   - Only the outermost hooked call counts: one made inside it, by libc's
 *     callbacks or a signal handler, is part of it.
 *   - errno, the result and EINTR are exactly the real function's.
 *   - A copied function pointer may outlive lg_hooks_uninstall(): our functions
 *     go on to pass through. The object that holds them is never unloaded.
 *
 * Not seen: system calls made without libc's functions (Go, static musl,
 * io_uring, syscall(2)), libc calling itself, vfork and exec, page faults.
 */
#ifndef LG_HOOKS_H
#define LG_HOOKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../../common/lg_atomic.h"

/* X(CLASS, field of lg_calls, text) */
#define LG_CALL_CLASSES(X) \
    X(IO, io_ns, "io")                  /* network, pipes, children, sleep */ \
    X(DISK, disk_ns, "disk") \
    X(LOCK, lock_ns, "lock") \
    X(GIL, gil_ns, "gil")

enum lg_call_class {
#define LG_X(name, field, text) LG_CALL_CLASS_##name,
    LG_CALL_CLASSES(LG_X)
#undef LG_X
        LG_CALL_CLASS_COUNT
};

/* X(KIND, text, class). BY_FD: io, but disk when the call took LG_CALL_LOOK_NS
 * or more and the descriptor is a regular file, a directory or a disk. */
#define LG_CALL_KINDS(X) \
    X(NONE, "", IO) \
    X(SLEEP, "sleep", IO)               /* also select and poll on nothing */ \
    X(RECV, "recv", IO) \
    X(SEND, "send", IO) \
    X(CONNECT, "connect", IO) \
    X(ACCEPT, "accept", IO) \
    X(RESOLVE, "getaddrinfo", IO)       /* and the other name look-ups */ \
    X(POLL, "poll", IO)                 /* ... that are not the loop's own */ \
    X(SELECT, "select", IO) \
    X(EPOLL, "epoll_wait", IO) \
    X(READ, "read", BY_FD) \
    X(WRITE, "write", BY_FD) \
    X(SENDFILE, "sendfile", IO)         /* and splice, tee */ \
    X(WAIT, "waitpid", IO) \
    X(SPAWN, "spawn", IO)               /* fork, posix_spawn, system */ \
    X(SIGWAIT, "sigwait", IO) \
    X(PREAD, "pread", DISK) \
    X(PWRITE, "pwrite", DISK) \
    X(COPY, "copy_file_range", DISK) \
    X(SYNC, "fsync", DISK) \
    X(OPEN, "open", DISK) \
    X(CLOSE, "close", DISK) \
    X(STAT, "stat", DISK) \
    X(DIR, "readdir", DISK) \
    X(UNLINK, "unlink", DISK) \
    X(RENAME, "rename", DISK)           /* and links */ \
    X(MKDIR, "mkdir", DISK) \
    X(TRUNCATE, "truncate", DISK) \
    X(DLOPEN, "dlopen", DISK) \
    X(FLOCK, "file lock", LOCK) \
    X(SEM, "lock", LOCK)                /* semaphores: Python's own locks are these */ \
    X(COND, "condition", LOCK) \
    X(MUTEX, "mutex", LOCK)             /* only when another thread holds it */ \
    X(JOIN, "join thread", LOCK) \
    X(GIL, "GIL", GIL)

enum lg_call_kind {
#define LG_X(name, text, class) LG_CALL_##name,
    LG_CALL_KINDS(LG_X)
#undef LG_X
        LG_CALL_KIND_COUNT
};

#define LG_CALL_LOOK_NS UINT64_C(100000)   /* from here on it may be the longest */
#define LG_CALL_NAME_NS UINT64_C(1000000)  /* from here on it gets its detail */
#define LG_CALL_DETAIL 112                 /* bytes */
#define LG_CALL_LONGEST 4

/* A transfer on a descriptor with O_NONBLOCK that took LG_CALL_LOOK_NS or more is
 * in no sum of time: it did not wait, it computed or was kept from running. */

/* One finished call. Consecutive waits for the GIL are one: Python gives up
 * and waits anew every 5 ms; less than LG_CALL_LOOK_NS apart they are joined. */
struct lg_call {
    uint64_t start_ns;
    uint64_t dur_ns;
    enum lg_call_kind kind;
    enum lg_call_class class;
    int fd;                             /* -1: none */
    char detail[LG_CALL_DETAIL];        /* peer, path, host, "pid 12", or "" */
};

struct lg_calls;
typedef void (*lg_poll_enter_fn)(struct lg_calls *calls, uint64_t now_ns);
typedef void (*lg_poll_leave_fn)(struct lg_calls *calls, uint64_t now_ns, int n_events);
typedef void (*lg_slow_call_fn)(struct lg_calls *calls, const struct lg_call *call);

/* Owned by the caller, embedded where it likes; lg_calls_init() before use. */
struct lg_calls {
    /* Set by the owner while detached, or on the thread itself.
     * The loop's own poll is an epoll wait on `poll_fd`, or a poll or select
     * that watches `member_fd` (asyncio's self-pipe). -1: none; with both -1 the
     * first epoll wait that may block is taken for it and fills `poll_fd`. */
    int poll_fd;
    int member_fd;
    /* Around the loop's own poll, on the thread, without the GIL. The clock is
     * read once at each edge. n_events: what the call returned, -1 as on EINTR.
     * Poll time itself is in no sum. Any may be NULL. */
    lg_poll_enter_fn poll_enter;
    lg_poll_leave_fn poll_leave;
    /* Right after a call of slow_ns (>= LG_CALL_LOOK_NS) or more, still without
     * the GIL: the Python stack is the caller's. A chain of GIL waits tells
     * once, when it crosses the limit. `call` is the callee's for the call. */
    lg_slow_call_fn slow_call;
    uint64_t slow_ns;

    /* Monotone; other threads read them with lg_load_relaxed(). */
    uint64_t io_ns;
    uint64_t disk_ns;
    uint64_t lock_ns;
    uint64_t gil_ns;
    uint64_t class_calls[LG_CALL_CLASS_COUNT];
    uint64_t kind_calls[LG_CALL_KIND_COUNT];

    /* The call that runs now: lg_calls_now(). */
    uint64_t now_since_ns;              /* 0 = none; written last */
    uint64_t now_what;                  /* fd | kind << 32 */

    /* Private. */
    uintptr_t outermost;                /* stack address of the outermost call */
    uint64_t gil_start_ns;              /* of the chain */
    uint64_t gil_end_ns;
    uint32_t longest_count;
    struct lg_call longest[LG_CALL_LONGEST];   /* later ones are shorter */
};

/* The thread's struct. Read through lg_calls_current(). On glibc it lies in the
 * static TLS block, one load away; musl has no room there for late modules. */
#if defined(__GLIBC__)
#define LG_CALLS_TLS _Thread_local __attribute__((tls_model("initial-exec")))
#else
#define LG_CALLS_TLS _Thread_local
#endif
extern LG_CALLS_TLS struct lg_calls *lg_calls_tls __attribute__((visibility("hidden")));

/* Zeroes it; no descriptor, no callback. */
void lg_calls_init(struct lg_calls *calls);

/* From now on the calling thread's hooked calls go into `calls`, which must
 * outlive the detaching. One struct, one thread. NULL detaches. */
void lg_calls_attach(struct lg_calls *calls);

static inline struct lg_calls *
lg_calls_current(void)
{
    return lg_calls_tls;
}

/* Any thread: the call that `calls`' thread is in; false when in none. What is
 * before since_ns is in the sums already; of a wait for the GIL this is its
 * last piece. fd is -1 where there is none. */
bool lg_calls_now(const struct lg_calls *calls, uint64_t *since_ns, enum lg_call_kind *kind,
                  int *fd);

/* Any thread, when lg_calls_now() says GIL: when the whole wait began. */
static inline uint64_t
lg_calls_gil_since(const struct lg_calls *calls)
{
    return lg_load_relaxed(&calls->gil_start_ns);
}

/* On the thread itself: the longest call that began at or after `since_ns`, or
 * NULL; shorter ones than LG_CALL_LOOK_NS are not kept. Valid until the next
 * hooked call. Forgotten when the loop's own poll returns: a step never
 * spans it. */
const struct lg_call *lg_calls_longest_since(const struct lg_calls *calls, uint64_t since_ns);
void lg_calls_reset_longest(struct lg_calls *calls);

/* The same as text, "recv fd 11 <- 127.0.0.1:5432"; returns its duration, or 0
 * and "". */
uint64_t lg_calls_longest(const struct lg_calls *calls, uint64_t since_ns, char *text, size_t size);

/* Writes "read fd 7 /etc/hosts"; always NUL-terminated. */
void lg_call_format(const struct lg_call *call, char *text, size_t size);

const char *lg_call_kind_text(enum lg_call_kind kind);
const char *lg_call_class_text(enum lg_call_class class);
enum lg_call_class lg_call_kind_class(enum lg_call_kind kind);     /* BY_FD: io */
/* What a descriptor is: "127.0.0.1:5432", "/etc/hosts", "pipe"; `out` stays as it
 * is where nobody can tell. Any thread; one to three system calls. */
void lg_call_describe_fd(char *out, size_t size, int fd);
/* Looks at the descriptor where the kind alone does not tell: one system call. */
enum lg_call_class lg_call_class_of(enum lg_call_kind kind, int fd);
uint64_t lg_calls_class_ns(const struct lg_calls *calls, enum lg_call_class class);

/* ---- the slots --------------------------------------------------------- */

/* One thread at a time: the agent calls these under the GIL. A call that
 * meets another one under way returns -EAGAIN and changes nothing. */

/* Replaces the slots of all loaded objects. 0 and "", or -errno and a few words
 * for the user in `reason`. Idempotent. */
int lg_hooks_install(char *reason, size_t size);

/* Objects loaded since: about 0.1 us when there are none. Importing a Python
 * extension does it by itself, because the interpreter's dlopen is hooked. */
int lg_hooks_rescan(void);

/* Restores every slot that still holds our function; those that another tool
 * has since replaced are left as they are. */
void lg_hooks_uninstall(void);

/* Where the GIL's condition variables lie; a wait on one within [lo, hi) is a
 * wait for the GIL. 0, 0: not known, such waits count as locks. */
void lg_hooks_set_gil_range(uintptr_t lo, uintptr_t hi);

struct lg_hooks_status {
    bool installed;
    uint32_t functions;                 /* names we replace */
    uint32_t missing;                   /* of them, not in this libc */
    uint32_t objects;                   /* ELF objects scanned */
    uint32_t slots;                     /* that hold our functions */
    uint32_t foreign;                   /* left alone: another tool's function is in them */
    uint32_t refused;                   /* their page could not be made writable */
    uint32_t poll_slots;                /* of `slots`: epoll waits. 0 = no iterations seen */
};
void lg_hooks_status(struct lg_hooks_status *out);

#endif
