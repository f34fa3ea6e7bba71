/*
 * hook_calls.c - the functions that stand in the slots.
 *
 * They run in any thread, with or without the GIL, in signal handlers, in a
 * vfork()ed child, before and after lg_hooks_uninstall(). A thread without a
 * struct lg_calls jumps on. Nothing here allocates, locks or touches errno;
 * what a long call needs besides is in lg_hook_finish_slow().
 *
 * "The outermost call" is told by its stack address, not by a counter: a
 * longjmp() out of a call (libcurl's resolver does that) leaves an address
 * that the next call of an outer frame sees is stale. A call nested in another
 * always lies below it on the stack.
 */
#include "hook_list.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>

#include "../../common/lg_clock.h"

#define REAL(name) (lg_hook_globals.real.fn_##name)
#define FRAME() ((uintptr_t)__builtin_frame_address(0))
#define LIKELY(x) __builtin_expect(!!(x), 1)

static const uint8_t class_of[] = {
#define LG_X(name, text, class) LG_CALL_CLASS_##class,
    LG_CALL_KINDS(LG_X)
#undef LG_X
};

/* A signal handler on this thread must find our words in the order in which
 * they were written; other threads need no more than lg_calls_now() has. */
static inline void
keep_order(void)
{
    __asm__ volatile("" ::: "memory");
}

/* ---- timing one call ----------------------------------------------------- */

/* False: the call is part of another one, only pass it through. */
static inline bool
begin(struct lg_calls *calls, uintptr_t frame, enum lg_call_kind kind, int fd, uint64_t *start_ns)
{
    if (frame < calls->outermost) {
        return false;
    }
    calls->outermost = frame;
    keep_order();
    uint64_t now = lg_now_ns();
    *start_ns = now;
    /* Release: a reader that sees the new words also sees that the old call
     * was over. Pairs with lg_calls_now(). */
    lg_store_release(&calls->now_what, (uint64_t)(uint32_t)fd | (uint64_t)kind << 32);
    lg_store_release(&calls->now_since_ns, now);
    return true;
}

static inline void
end(struct lg_calls *calls, enum lg_call_kind kind, const struct lg_about *about, uint64_t start_ns)
{
    uint64_t dur_ns = lg_now_ns() - start_ns;
    lg_store_relaxed(&calls->now_since_ns, 0);
    lg_add_single(&calls->kind_calls[kind], 1);
    if (LIKELY(dur_ns < LG_CALL_LOOK_NS)) {
        int class = class_of[kind] == LG_CALL_CLASS_BY_FD ? LG_CALL_CLASS_IO : class_of[kind];
        lg_add_single(&calls->class_calls[class], 1);
        lg_add_single(class == LG_CALL_CLASS_IO     ? &calls->io_ns
                      : class == LG_CALL_CLASS_DISK ? &calls->disk_ns
                                                    : &calls->lock_ns,
                      dur_ns);
    }
    else {
        struct lg_call call = {.start_ns = start_ns, .dur_ns = dur_ns, .kind = kind};
        lg_hook_finish_slow(calls, &call, about, dur_ns, dur_ns >= calls->slow_ns);
    }
    keep_order();
    calls->outermost = 0;
}

/* The body of most functions. `call` is the call of the real function. */
#define TIMED(result, kind, about_, call) \
    do { \
        struct lg_calls *calls = lg_calls_current(); \
        TIMED_IN(calls, result, kind, about_, call); \
    } while (0)

#define TIMED_IN(calls, result, kind, about_, call) \
    do { \
        if (calls == NULL) { \
            return call; \
        } \
        const struct lg_about about = about_; \
        uint64_t start_ns; \
        if (!begin(calls, FRAME(), kind, about.fd, &start_ns)) { \
            return call; \
        } \
        result answer = call; \
        end(calls, kind, &about, start_ns); \
        return answer; \
    } while (0)

#define LG_X(result, name, kind, about, params, args) \
    result lg_hook_##name params \
    { \
        TIMED(result, LG_CALL_##kind, about, REAL(name) args); \
    }
LG_HOOKS_PLAIN(LG_X)
#undef LG_X

/* ---- poll ---------------------------------------------------------------- */

/* The loop's own poll ends whatever a longjmp may have left. */
static void
own_poll_begin(struct lg_calls *calls, uintptr_t frame)
{
    calls->outermost = frame;
    keep_order();
    lg_store_relaxed(&calls->now_since_ns, 0);
    if (calls->poll_enter != NULL) {
        int saved = errno;              /* a poll that succeeds leaves it alone */
        calls->poll_enter(calls, lg_now_ns());
        errno = saved;
    }
}

static void
own_poll_end(struct lg_calls *calls, int n_events)
{
    int saved = errno;
    calls->longest_count = 0;
    if (calls->poll_leave != NULL) {
        calls->poll_leave(calls, lg_now_ns(), n_events);
    }
    errno = saved;
    keep_order();
    calls->outermost = 0;
}

static inline bool
is_own_epoll(struct lg_calls *calls, int epfd, bool may_block)
{
    if (calls->poll_fd < 0 && calls->member_fd < 0 && may_block) {
        calls->poll_fd = epfd;
    }
    return epfd == calls->poll_fd;
}

/* The loop's own poll; falls through when it is another one. */
#define OWN_POLL(calls, is_own, call) \
    do { \
        if (calls != NULL && is_own) { \
            own_poll_begin(calls, FRAME()); \
            int n_events = call; \
            own_poll_end(calls, n_events); \
            return n_events; \
        } \
    } while (0)

#define POLL_EPOLL(may_block, call) \
    do { \
        struct lg_calls *calls = lg_calls_current(); \
        OWN_POLL(calls, is_own_epoll(calls, epfd, may_block), call); \
        TIMED_IN(calls, int, LG_CALL_EPOLL, ABOUT_FD(epfd), call); \
    } while (0)

int
lg_hook_epoll_wait(int epfd, void *events, int n, int timeout_ms)
{
    POLL_EPOLL(timeout_ms != 0, REAL(epoll_wait)(epfd, events, n, timeout_ms));
}

int
lg_hook_epoll_pwait(int epfd, void *events, int n, int timeout_ms, const sigset_t *mask)
{
    POLL_EPOLL(timeout_ms != 0, REAL(epoll_pwait)(epfd, events, n, timeout_ms, mask));
}

static inline bool
may_block_until(const struct timespec *t)
{
    return t == NULL || t->tv_sec != 0 || t->tv_nsec != 0;
}

int
lg_hook_epoll_pwait2(int epfd, void *events, int n, const struct timespec *t, const sigset_t *mask)
{
    POLL_EPOLL(may_block_until(t), REAL(epoll_pwait2)(epfd, events, n, t, mask));
}

static inline bool
is_own_poll(const struct lg_calls *calls, const struct pollfd *fds, nfds_t n)
{
    for (nfds_t i = 0; calls->member_fd >= 0 && i < n; i++) {
        if (fds[i].fd == calls->member_fd) {
            return true;
        }
    }
    return false;
}

#define POLL_POLL(call) \
    do { \
        struct lg_calls *calls = lg_calls_current(); \
        OWN_POLL(calls, is_own_poll(calls, fds, n), call); \
        if (n == 0) { \
            TIMED_IN(calls, int, LG_CALL_SLEEP, ABOUT_NOTHING, call); \
        } \
        TIMED_IN(calls, int, LG_CALL_POLL, ABOUT_FD(fds[0].fd), call); \
    } while (0)

int
lg_hook_poll(struct pollfd *fds, nfds_t n, int timeout_ms)
{
    POLL_POLL(REAL(poll)(fds, n, timeout_ms));
}

int
lg_hook___poll_chk(struct pollfd *fds, nfds_t n, int timeout_ms, size_t room)
{
    POLL_POLL(REAL(__poll_chk)(fds, n, timeout_ms, room));
}

int
lg_hook_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *t, const sigset_t *mask)
{
    POLL_POLL(REAL(ppoll)(fds, n, t, mask));
}

int
lg_hook___ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *t, const sigset_t *mask,
                    size_t room)
{
    POLL_POLL(REAL(__ppoll_chk)(fds, n, t, mask, room));
}

static inline bool
is_own_select(const struct lg_calls *calls, int n, const fd_set *r)
{
    int fd = calls->member_fd;
    return fd >= 0 && fd < n && fd < FD_SETSIZE && r != NULL && FD_ISSET(fd, r);
}

/* The lowest descriptor watched; select() overwrites its sets, so look first. */
static int
first_fd(int n, const fd_set *r, const fd_set *w)
{
    for (int fd = 0; fd < n && fd < FD_SETSIZE; fd++) {
        if ((r != NULL && FD_ISSET(fd, r)) || (w != NULL && FD_ISSET(fd, w))) {
            return fd;
        }
    }
    return -1;
}

#define POLL_SELECT(call) \
    do { \
        struct lg_calls *calls = lg_calls_current(); \
        OWN_POLL(calls, is_own_select(calls, n, r), call); \
        if (n == 0) {                   /* Python's sleep before 3.11 */ \
            TIMED_IN(calls, int, LG_CALL_SLEEP, ABOUT_NOTHING, call); \
        } \
        TIMED_IN(calls, int, LG_CALL_SELECT, ABOUT_FD(first_fd(n, r, w)), call); \
    } while (0)

int
lg_hook_select(int n, fd_set *r, fd_set *w, fd_set *e, struct timeval *t)
{
    POLL_SELECT(REAL(select)(n, r, w, e, t));
}

int
lg_hook_pselect(int n, fd_set *r, fd_set *w, fd_set *e, const struct timespec *t,
                const sigset_t *mask)
{
    POLL_SELECT(REAL(pselect)(n, r, w, e, t, mask));
}

/* ---- locks and the GIL ----------------------------------------------------- */

static inline bool
is_gil(const void *address)
{
    uintptr_t a = (uintptr_t)address;
    return a >= lg_hook_globals.gil_lo && a < lg_hook_globals.gil_hi;
}

/* When the waits that this one continues began. */
static inline uint64_t
gil_chain_start(const struct lg_calls *calls, uint64_t start_ns)
{
    return start_ns - calls->gil_end_ns < LG_CALL_LOOK_NS ? calls->gil_start_ns : start_ns;
}

/* Python waits 5 ms, asks the holder to let go, and waits again: one wait. */
static void
end_gil_wait(struct lg_calls *calls, uint64_t start_ns)
{
    uint64_t now = lg_now_ns();
    uint64_t chain_ns = calls->gil_start_ns;
    uint64_t before_ns = chain_ns != start_ns ? calls->gil_end_ns - chain_ns : 0;
    struct lg_call call = {
        .start_ns = chain_ns,
        .dur_ns = now - chain_ns,
        .kind = LG_CALL_GIL,
    };
    lg_store_relaxed(&calls->now_since_ns, 0);
    if (chain_ns == start_ns) {
        lg_add_single(&calls->kind_calls[LG_CALL_GIL], 1);
        lg_add_single(&calls->class_calls[LG_CALL_CLASS_GIL], 1);
    }
    calls->gil_end_ns = now;
    if (call.dur_ns < LG_CALL_LOOK_NS) {
        lg_add_single(&calls->gil_ns, now - start_ns);
    }
    else {
        bool crosses = before_ns < calls->slow_ns && call.dur_ns >= calls->slow_ns;
        lg_hook_finish_slow(calls, &call, &ABOUT_NOTHING, now - start_ns, crosses);
    }
    keep_order();
    calls->outermost = 0;
}

/* A wait on `address`, which tells the GIL from other locks. */
#define WAIT_ON(kind, address, call) \
    do { \
        struct lg_calls *calls = lg_calls_current(); \
        if (calls == NULL || !is_gil(address)) { \
            TIMED_IN(calls, int, kind, ABOUT_NOTHING, call); \
        } \
        uint64_t start_ns; \
        if (!begin(calls, FRAME(), LG_CALL_GIL, -1, &start_ns)) { \
            return call; \
        } \
        lg_store_relaxed(&calls->gil_start_ns, gil_chain_start(calls, start_ns)); \
        int r = call; \
        end_gil_wait(calls, start_ns); \
        return r; \
    } while (0)

int
lg_hook_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *m)
{
    WAIT_ON(LG_CALL_COND, cond, REAL(pthread_cond_wait)(cond, m));
}

int
lg_hook_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *m, const struct timespec *t)
{
    WAIT_ON(LG_CALL_COND, cond, REAL(pthread_cond_timedwait)(cond, m, t));
}

int
lg_hook_pthread_cond_clockwait(pthread_cond_t *cond, pthread_mutex_t *m, clockid_t clock,
                               const struct timespec *t)
{
    WAIT_ON(LG_CALL_COND, cond, REAL(pthread_cond_clockwait)(cond, m, clock, t));
}

/* A free mutex costs no clock: try first. Only EBUSY means that the real call
 * may wait, or deadlock on itself, or say why not: it decides. */
int
lg_hook_pthread_mutex_lock(pthread_mutex_t *m)
{
    if (lg_calls_current() == NULL) {
        return REAL(pthread_mutex_lock)(m);
    }
    int err = pthread_mutex_trylock(m);
    if (err != EBUSY) {
        return err;
    }
    WAIT_ON(LG_CALL_MUTEX, m, REAL(pthread_mutex_lock)(m));
}

int
lg_hook_pthread_rwlock_rdlock(pthread_rwlock_t *lock)
{
    if (lg_calls_current() != NULL && pthread_rwlock_tryrdlock(lock) == 0) {
        return 0;
    }
    TIMED(int, LG_CALL_MUTEX, ABOUT_NOTHING, REAL(pthread_rwlock_rdlock)(lock));
}

int
lg_hook_pthread_rwlock_wrlock(pthread_rwlock_t *lock)
{
    if (lg_calls_current() != NULL && pthread_rwlock_trywrlock(lock) == 0) {
        return 0;
    }
    TIMED(int, LG_CALL_MUTEX, ABOUT_NOTHING, REAL(pthread_rwlock_wrlock)(lock));
}

/* ---- files ------------------------------------------------------------------ */

/* libc reads the mode under the same condition. */
#define MODE_OF(flags, mode) \
    unsigned mode = 0; \
    if ((flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, unsigned); \
        va_end(more); \
    }

int
lg_hook_open(const char *path, int flags, ...)
{
    MODE_OF(flags, mode);
    TIMED(int, LG_CALL_OPEN, ABOUT_PATH(path), REAL(open)(path, flags, mode));
}

#undef open64                           /* macros of musl */
#undef openat64
#undef fcntl64

int
lg_hook_open64(const char *path, int flags, ...)
{
    MODE_OF(flags, mode);
    TIMED(int, LG_CALL_OPEN, ABOUT_PATH(path), REAL(open64)(path, flags, mode));
}

int
lg_hook_openat(int dir, const char *path, int flags, ...)
{
    MODE_OF(flags, mode);
    TIMED(int, LG_CALL_OPEN, ABOUT_PATH(path), REAL(openat)(dir, path, flags, mode));
}

int
lg_hook_openat64(int dir, const char *path, int flags, ...)
{
    MODE_OF(flags, mode);
    TIMED(int, LG_CALL_OPEN, ABOUT_PATH(path), REAL(openat64)(dir, path, flags, mode));
}

/* Only commands that wait for a lock are timed. The third argument is passed on
 * as a pointer whatever it is: an int arrives in the same register. */
#define LOCK_BY_FCNTL(call) \
    do { \
        va_list more; \
        va_start(more, cmd); \
        void *arg = va_arg(more, void *); \
        va_end(more); \
        if (cmd != F_SETLKW && cmd != F_OFD_SETLKW) { \
            return call; \
        } \
        TIMED(int, LG_CALL_FLOCK, ABOUT_FD(fd), call); \
    } while (0)

int
lg_hook_fcntl(int fd, int cmd, ...)
{
    LOCK_BY_FCNTL(REAL(fcntl)(fd, cmd, arg));
}

int
lg_hook_fcntl64(int fd, int cmd, ...)
{
    LOCK_BY_FCNTL(REAL(fcntl64)(fd, cmd, arg));
}

static int
sync_and_return(void)
{
    REAL(sync)();
    return 0;
}

static int
timed_sync(void)
{
    TIMED(int, LG_CALL_SYNC, ABOUT_NOTHING, sync_and_return());
}

void
lg_hook_sync(void)
{
    timed_sync();
}

/* ---- processes and modules ---------------------------------------------------- */

/* In the child the call is nobody's: its handlers may have detached us. */
pid_t
lg_hook_fork(void)
{
    struct lg_calls *calls = lg_calls_current();
    uint64_t start_ns;
    if (calls == NULL || !begin(calls, FRAME(), LG_CALL_SPAWN, -1, &start_ns)) {
        return REAL(fork)();
    }
    pid_t pid = REAL(fork)();
    if (pid != 0) {
        end(calls, LG_CALL_SPAWN, &ABOUT_NOTHING, start_ns);
    }
    else if (lg_calls_current() != NULL) {
        lg_store_relaxed(&lg_calls_current()->now_since_ns, 0);
        lg_calls_current()->outermost = 0;
    }
    return pid;
}

static void *
timed_dlopen(const char *path, int flags)
{
    TIMED(void *, LG_CALL_DLOPEN, ABOUT_PATH(path), REAL(dlopen)(path, flags));
}

/* In the interpreter's slot only, see hooks.c. */
void *
lg_hook_dlopen(const char *path, int flags)
{
    void *handle = timed_dlopen(path, flags);
    if (handle != NULL) {
        lg_hooks_rescan();
    }
    return handle;
}
