/*
 * lg_copy.c - copies out of a mapping that may be cut at any moment.
 *
 * One thread, one mapping at a time, in a program that owns its main(). A
 * signal handler has no argument of ours, so the guard's state is the one
 * static object of this file: it is live only inside lg_copy_run().
 */
#include "lg_copy.h"

#include <assert.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>

#include "lg_atomic.h"
#include "lg_error.h"

static struct {
    volatile sig_atomic_t active;
    uintptr_t start;
    uintptr_t end;
    sigjmp_buf back;
    struct sigaction before;
} guard;

struct words {
    uint64_t *to;
    const uint64_t *from;
    size_t count;
};

static void on_sigbus(int signo, siginfo_t *info, void *context);
static void take_words(void *arg);

int
lg_copy_guard(void)
{
    struct sigaction action = {.sa_sigaction = on_sigbus};
    struct sigaction before;
    if (sigaction(SIGBUS, NULL, &before) < 0) {
        return -errno;
    }
    if ((before.sa_flags & SA_SIGINFO) != 0 && before.sa_sigaction == on_sigbus) {
        return 0;
    }
    guard.before = before;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, NULL) < 0 ? -errno : 0;
}

int
lg_copy(void *to, const void *from, size_t length)
{
    struct words words = {.to = to, .from = from, .count = length / 8};
    assert(length % 8 == 0 && (uintptr_t)from % 8 == 0 && (uintptr_t)to % 8 == 0);
    return lg_copy_run(from, length, take_words, &words);
}

int
lg_copy_run(const void *map, size_t length, void (*take)(void *arg), void *arg)
{
    if (guard.active) {
        take(arg);                      /* inside another run: its guard holds */
        return 0;
    }
    guard.start = (uintptr_t)map;
    guard.end = guard.start + length;
    /* With the mask, one system call per run: the jump leaves the handler, in
     * which SIGBUS is blocked, and a blocked SIGBUS kills at once. */
    if (sigsetjmp(guard.back, 1) != 0) {
        guard.active = 0;
        return LG_ETRUNCATED;
    }
    guard.active = 1;
    take(arg);
    guard.active = 0;
    return 0;
}

/* Loads behind the end of a file raise SIGBUS with the address; all others
 * are somebody else's. */
static void
on_sigbus(int signo, siginfo_t *info, void *context)
{
    uintptr_t at = (uintptr_t)info->si_addr;
    if (guard.active && at >= guard.start && at < guard.end) {
        siglongjmp(guard.back, 1);
    }
    if ((guard.before.sa_flags & SA_SIGINFO) != 0) {
        guard.before.sa_sigaction(signo, info, context);
    }
    else if (guard.before.sa_handler != SIG_DFL && guard.before.sa_handler != SIG_IGN) {
        guard.before.sa_handler(signo);
    }
    else {
        /* The load is repeated on return and then has its default effect. A
         * SIGBUS that kill() sent does not come again: raise it. */
        sigaction(SIGBUS, &guard.before, NULL);
        if (info->si_code <= 0) {
            raise(signo);
        }
    }
}

static void
take_words(void *arg)
{
    const struct words *words = arg;
    for (size_t i = 0; i < words->count; i++) {
        words->to[i] = lg_load_relaxed(&words->from[i]);
    }
}
