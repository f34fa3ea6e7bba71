/*
 * sample.c - see sample.h.
 */
#include "sample.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../common/lg_clock.h"
#include "cgroup.h"
#include "../pystack/memread.h"
#include "../pool.h"
#include "syscalls.h"

struct lg_sampler {
    struct lg_agent *agent;
    struct lg_pystack_walker *walker;
    struct lg_memread memory;
    struct lg_pystack_sample frames;
    struct lg_pystack_symbol symbols[LG_PYSTACK_DEPTH];
    struct lg_plain_frame plain[LG_PYSTACK_DEPTH];
};

static void sample_clocks(struct lg_loop *loop, struct lg_watch *watch,
                          struct lg_stall_state *state, uint64_t now_ns, bool collecting);
static void sample_call(struct lg_sampler *sampler, struct lg_loop *loop, struct lg_watch *watch,
                        struct lg_stall_state *state, uint64_t now_ns, enum lg_cause *waits);
static void sample_stack(struct lg_sampler *sampler, struct lg_loop *loop, struct lg_watch *watch,
                         struct lg_stall_state *state, uint64_t now_ns);
static void sample_holder(struct lg_sampler *sampler, struct lg_loop *loop,
                          struct lg_stall_state *state, uint64_t now_ns);
static void callback_name(const struct lg_plain_frame *plain, uint32_t depth, uint32_t common,
                          char *name, size_t size);
static bool read_syscall(int fd, long *number, long *arg);
static void count_vote(struct lg_loop *loop, enum lg_cause cause);

struct lg_sampler *
lg_sampler_new(struct lg_agent *agent)
{
    struct lg_sampler *sampler = calloc(1, sizeof(*sampler));
    if (sampler == NULL) {
        return NULL;
    }
    sampler->agent = agent;
    if (lg_pystack_walker_open(agent->pystack, &sampler->walker) != 0) {
        sampler->walker = NULL;         /* stacks are off; all else goes on */
    }
    (void)lg_memread_init(&sampler->memory);    /* a failure shows at the first read */
    return sampler;
}

void
lg_sampler_free(struct lg_sampler *sampler)
{
    if (sampler != NULL) {
        if (sampler->walker != NULL) {
            lg_pystack_walker_close(sampler->walker);
        }
        free(sampler);
    }
}

/* ---- one sample -------------------------------------------------------- */

void
lg_sample(struct lg_sampler *sampler, struct lg_loop *loop, struct lg_watch *watch,
          struct lg_stall_state *state, uint64_t now_ns)
{
    enum lg_cause waits = LG_CAUSE_COUNT;
    state->samples++;
    state->duration_ns = now_ns - state->start_ns;
    bool collecting = sampler->walker != NULL && lg_pystack_collecting(sampler->walker);
    sample_call(sampler, loop, watch, state, now_ns, &waits);
    sample_clocks(loop, watch, state, now_ns, collecting);
    count_vote(loop, waits);
    if (sampler->walker != NULL) {
        sample_stack(sampler, loop, watch, state, now_ns);
        if (waits == LG_CAUSE_GIL || waits == LG_CAUSE_LOCK) {
            sample_holder(sampler, loop, state, now_ns);
        }
    }
    uint32_t largest = 0;
    for (uint32_t i = 1; i < LG_CAUSE_COUNT; i++) {
        largest = state->parts_ns[i] > state->parts_ns[largest] ? i : largest;
    }
    state->cause = largest == LG_CAUSE_OTHER ? LG_CAUSE_UNKNOWN : largest;
    uint64_t throttled = lg_cgroup_throttled(watch->throttled_fd);
    if (throttled != LG_NONE && watch->throttled != LG_NONE && throttled > watch->throttled) {
        state->flags |= LG_STALL_THROTTLED;
    }
    watch->last_ns = now_ns;
}

/* A read that was taken for disk while it ran may be summed as io in the end:
 * what was lent to a sum and never came is no growth. */
static uint64_t
grown(uint64_t sum, uint64_t seen)
{
    return (int64_t)(sum - seen) > 0 ? sum - seen : 0;
}

/* Shares the time since the previous sample out among the causes: what the
 * hooks, the CPU clock and schedstat say grew meanwhile, the rest is other. */
static void
sample_clocks(struct lg_loop *loop, struct lg_watch *watch, struct lg_stall_state *state,
              uint64_t now_ns, bool collecting)
{
    struct lg_stretch stretch = {.wall_ns = now_ns - watch->last_ns};
    struct lg_sums sums = lg_loop_sums_seen(loop);
    stretch.calls.io = grown(sums.io, watch->sums.io);
    stretch.calls.disk = grown(sums.disk, watch->sums.disk);
    stretch.calls.lock = grown(sums.lock, watch->sums.lock);
    stretch.calls.gil = grown(sums.gil, watch->sums.gil);
    watch->sums = sums;
    uint64_t since;
    enum lg_call_kind kind;
    int fd;
    if (lg_calls_now(&loop->calls, &since, &kind, &fd)) {
        /* A call under way is in no sum yet. */
        uint64_t from = since > watch->last_ns ? since : watch->last_ns;
        uint64_t so_far = now_ns > from ? now_ns - from : 0;
        uint64_t *into[LG_CALL_CLASS_COUNT] = {&stretch.calls.io, &stretch.calls.disk,
                                               &stretch.calls.lock, &stretch.calls.gil};
        enum lg_call_class class = lg_call_class_of(kind, fd);
        *into[class] += so_far;
        uint64_t *seen[LG_CALL_CLASS_COUNT] = {&watch->sums.io, &watch->sums.disk,
                                               &watch->sums.lock, &watch->sums.gil};
        *seen[class] += now_ns - since;
    }
    uint64_t cpu;
    if (lg_loop_cpu(loop, &cpu)) {
        stretch.used.cpu_ns = cpu - watch->cpu_ns;
        watch->cpu_ns = cpu;
    }
    uint64_t delay = lg_schedstat_run_delay(watch->schedstat_fd);
    stretch.used.run_delay_ns =
        delay == LG_NONE || watch->run_delay_ns == LG_NONE ? LG_NONE : delay - watch->run_delay_ns;
    watch->run_delay_ns = delay;
    if (collecting) {
        stretch.gc_ns = stretch.wall_ns;
    }
    uint64_t parts[LG_CAUSE_COUNT];
    (void)lg_cause_decide(&stretch, parts);
    /* The little that ran before the thread was first looked at went the way of
     * what came after. */
    double scale = state->samples == 1 && stretch.wall_ns != 0
                       ? (double)state->duration_ns / (double)stretch.wall_ns
                       : 1.0;
    for (int i = 0; i < LG_CAUSE_COUNT; i++) {
        state->parts_ns[i] += (uint64_t)((double)parts[i] * scale);
    }
}

/* Which call the thread is in: the hooks know; else the kernel says. */
static void
sample_call(struct lg_sampler *sampler, struct lg_loop *loop, struct lg_watch *watch,
            struct lg_stall_state *state, uint64_t now_ns, enum lg_cause *waits)
{
    static const enum lg_cause cause_of[LG_CALL_CLASS_COUNT] = {LG_CAUSE_IO, LG_CAUSE_DISK,
                                                                LG_CAUSE_LOCK, LG_CAUSE_GIL};
    struct lg_call call = {.fd = -1};
    uint64_t since;
    enum lg_call_kind kind;
    int fd;
    char text[LG_CALL_TEXT] = "";
    if (lg_calls_now(&loop->calls, &since, &kind, &fd)) {
        call.kind = kind;
        call.fd = fd;
        call.class = lg_call_class_of(kind, fd);
        if (fd >= 0) {
            lg_call_describe_fd(call.detail, sizeof(call.detail), fd);
        }
        lg_call_format(&call, text, sizeof(text));
        *waits = cause_of[call.class];
        state->call_ns = now_ns - (kind == LG_CALL_GIL ? lg_calls_gil_since(&loop->calls) : since);
    }
    else {
        long number;
        long arg;
        if (read_syscall(watch->syscall_fd, &number, &arg)) {
            const struct lg_syscall *known = lg_syscall_find(number);
            char detail[96] = "";
            if (known != NULL && known->first_is_fd) {
                lg_call_describe_fd(detail, sizeof(detail), (int)arg);
                snprintf(text, sizeof(text), "%s fd %d%s%s", known->name, (int)arg,
                         detail[0] != '\0' ? " " : "", detail);
            }
            else if (known != NULL) {
                snprintf(text, sizeof(text), "%s", known->name);
            }
            else {
                snprintf(text, sizeof(text), "system call %ld", number);
            }
            *waits = known != NULL ? known->cause : LG_CAUSE_IO;
            uint64_t lo;
            uint64_t hi;
            if (*waits == LG_CAUSE_LOCK && known != NULL && known->is_futex &&
                lg_pystack_gil_range(sampler->agent->pystack, &lo, &hi) == 0 &&
                (uint64_t)arg >= lo && (uint64_t)arg < hi) {
                *waits = LG_CAUSE_GIL;
                snprintf(text, sizeof(text), "GIL");
            }
        }
    }
    if (text[0] != '\0') {
        state->call = lg_record_string(&sampler->agent->rec, text, strlen(text), LG_WAIT);
    }
}

static void
sample_stack(struct lg_sampler *sampler, struct lg_loop *loop, struct lg_watch *watch,
             struct lg_stall_state *state, uint64_t now_ns)
{
    struct lg_self *self = sampler->agent->rec.seg.self;
    if (loop->thread.tstate == 0 ||
        lg_pystack_capture(sampler->walker, &loop->thread, &sampler->frames) != 0) {
        lg_add_single(&self->stacks_rejected, 1);
        return;
    }
    lg_add_single(&self->stacks, 1);
    char name[128];
    uint32_t stack = lg_sample_intern(sampler, &sampler->frames, state->endpoint, now_ns, loop,
                                      name, sizeof(name));
    if (stack == 0) {
        return;
    }
    if (sampler->frames.flags & LG_PYSTACK_MOVING) {
        state->flags |= LG_STALL_MOVING;
    }
    uint32_t best = 0;
    for (uint32_t i = 0; i < 4; i++) {
        if (watch->seen[i].stack == stack || watch->seen[i].count == 0) {
            watch->seen[i].stack = stack;
            watch->seen[i].count++;
            memcpy(watch->seen[i].name, name, sizeof(name));
            break;
        }
    }
    for (uint32_t i = 1; i < 4; i++) {
        best = watch->seen[i].count > watch->seen[best].count ? i : best;
    }
    state->stack = watch->seen[best].stack;
    if (state->key.gap && watch->seen[best].name[0] != '\0' && !state->holder_endpoint) {
        const char *callback = watch->seen[best].name;
        int endpoint = lg_record_endpoint(&sampler->agent->rec, LG_KIND_CALLBACK, LG_METHOD_NONE,
                                          callback, strlen(callback), now_ns, LG_WAIT);
        if (endpoint > 0) {
            state->endpoint = (uint32_t)endpoint;
        }
    }
}

/* Who holds the GIL meanwhile: its stack, and the endpoint its thread serves. */
static void
sample_holder(struct lg_sampler *sampler, struct lg_loop *loop, struct lg_stall_state *state,
              uint64_t now_ns)
{
    uint64_t tstate;
    struct lg_pystack_thread thread;
    if (!lg_pystack_gil_held(sampler->agent->pystack, &tstate) || tstate == 0 ||
        tstate == loop->thread.tstate ||
        lg_pystack_thread_at(sampler->walker, tstate, &thread) != 0) {
        return;
    }
    uint32_t endpoint = lg_pool_endpoint_of(sampler->agent->pool, thread.pthread_id);
    if (endpoint == LG_ENDPOINT_OTHER && state->holder_endpoint != LG_ENDPOINT_OTHER) {
        return; /* a thread that only came by does not displace one that has a name */
    }
    if (endpoint != LG_ENDPOINT_OTHER) {
        state->holder_endpoint = endpoint;
        lg_store_relaxed(&loop->holder, (uint64_t)endpoint + 1);
    }
    if (lg_pystack_capture(sampler->walker, &thread, &sampler->frames) == 0) {
        uint32_t stack = lg_sample_intern(
            sampler, &sampler->frames, endpoint != LG_ENDPOINT_OTHER ? endpoint : state->endpoint,
            now_ns, NULL, NULL, 0);
        if (stack != 0) {
            state->holder_stack = stack;
        }
    }
}

uint32_t
lg_sample_intern(struct lg_sampler *sampler, const struct lg_pystack_sample *frames,
                 uint32_t endpoint, uint64_t now_ns, const struct lg_loop *loop, char *name,
                 size_t size)
{
    uint32_t common = loop != NULL ? lg_sample_common(frames, &loop->base) : 0;
    uint32_t depth = 0;
    uint32_t gone = 0;
    for (uint32_t i = 0; i < frames->depth && sampler->walker != NULL; i++) {
        struct lg_pystack_symbol *symbol = &sampler->symbols[depth];
        if (lg_pystack_symbol(sampler->walker, &frames->frames[i], symbol) != 0) {
            gone += frames->depth - i <= common;
            continue;                   /* that code object is gone */
        }
        sampler->plain[depth] = (struct lg_plain_frame){
            .file = symbol->file,
            .function = symbol->name,
            .line = symbol->line > 0 ? (uint32_t)symbol->line : 0,
        };
        depth++;
    }
    if (name != NULL) {
        name[0] = '\0';
        callback_name(sampler->plain, depth, common - gone, name, size);
    }
    if (depth == 0) {
        return 0;
    }
    return lg_record_stack(&sampler->agent->rec, sampler->plain, depth, endpoint,
                           frames->flags & LG_PYSTACK_MOVING ? LG_STALL_MOVING : 0, now_ns);
}

bool
lg_sample_brief(struct lg_sampler *sampler, struct lg_loop *loop, struct lg_pystack_sample *out)
{
    return sampler->walker != NULL && loop->thread.tstate != 0 &&
           lg_pystack_capture(sampler->walker, &loop->thread, out) == 0;
}

/* A thread that has ended took its thread state with it; memory that is gone
 * cannot be read. */
bool
lg_sample_in_loop(struct lg_sampler *sampler, const struct lg_loop *loop)
{
    if (loop->hook == 0) {
        return true;
    }
    uint64_t hook;
    uint64_t at = (uintptr_t)loop->tstate + offsetof(PyThreadState, async_gen_firstiter);
    int err = lg_memread_copy(&sampler->memory, at, &hook, sizeof(hook));
    return err == 0 ? hook == lg_load_relaxed(&loop->hook) : err != -EFAULT;
}

uint32_t
lg_sample_thread(struct lg_sampler *sampler, uint64_t tstate, uint32_t endpoint, uint64_t now_ns)
{
    struct lg_pystack_thread thread;
    if (sampler->walker == NULL || lg_pystack_thread_at(sampler->walker, tstate, &thread) != 0 ||
        lg_pystack_capture(sampler->walker, &thread, &sampler->frames) != 0) {
        return 0;
    }
    return lg_sample_intern(sampler, &sampler->frames, endpoint, now_ns, NULL, NULL, 0);
}

uint32_t
lg_sample_common(const struct lg_pystack_sample *a, const struct lg_pystack_sample *b)
{
    uint32_t n = 0;
    if ((a->flags | b->flags) & LG_PYSTACK_CUT) {
        return 0;
    }
    while (n < a->depth && n < b->depth &&
           a->frames[a->depth - 1 - n].code == b->frames[b->depth - 1 - n].code) {
        n++;
    }
    return n;
}

/* The function that the loop called: the first frame inside of those that it
 * had when it was registered and of its own machinery. "" when there is none. */
static void
callback_name(const struct lg_plain_frame *plain, uint32_t depth, uint32_t common, char *name,
              size_t size)
{
    bool inside = common > 0;
    for (uint32_t i = depth - common; i-- > 0;) {
        bool machinery = lg_sample_is_machinery(plain[i].file);
        if (inside && !machinery) {
            snprintf(name, size, "%s", plain[i].function);
            return;
        }
        inside = inside || machinery;
    }
}

bool
lg_sample_is_machinery(const char *file)
{
    static const char *const parts[] = {"/asyncio/", "/uvloop/", "/trio/_core/", "/anyio/_core/"};
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (strstr(file, parts[i]) != NULL) {
            return true;
        }
    }
    return false;
}

static void
count_vote(struct lg_loop *loop, enum lg_cause cause)
{
    uint32_t *vote = cause == LG_CAUSE_IO     ? &loop->votes.io
                     : cause == LG_CAUSE_DISK ? &loop->votes.disk
                     : cause == LG_CAUSE_LOCK ? &loop->votes.lock
                     : cause == LG_CAUSE_GIL  ? &loop->votes.gil
                                              : &loop->votes.cpu;
    lg_store32_relaxed(vote, lg_load32_relaxed(vote) + 1);
}

/* ---- the thread's own files -------------------------------------------- */

void
lg_watch_begin(struct lg_watch *watch, struct lg_loop *loop)
{
    uint64_t created_ns = lg_load_relaxed(&loop->entry->created_ns);
    if (watch->tid != loop->tid || watch->created_ns != created_ns) {
        lg_watch_end(watch);
        char path[64];
        watch->tid = loop->tid;
        watch->created_ns = created_ns;
        watch->schedstat_fd = lg_schedstat_open(loop->tid);
        watch->throttled_fd = lg_cgroup_open();
        snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", (int)loop->tid);
        watch->syscall_fd = open(path, O_RDONLY | O_CLOEXEC);
        lg_sample_baseline(loop, watch);
        lg_sample_baseline_delay(watch);
        watch->throttled_first = watch->throttled;
    }
}

void
lg_watch_end(struct lg_watch *watch)
{
    if (watch->tid != 0) {
        if (watch->schedstat_fd >= 0) {
            close(watch->schedstat_fd);
        }
        if (watch->throttled_fd >= 0) {
            close(watch->throttled_fd);
        }
        if (watch->syscall_fd >= 0) {
            close(watch->syscall_fd);
        }
    }
    watch->schedstat_fd = -1;
    watch->throttled_fd = -1;
    watch->syscall_fd = -1;
    watch->tid = 0;
}

void
lg_sample_baseline(struct lg_loop *loop, struct lg_watch *watch)
{
    (void)lg_loop_cpu(loop, &watch->cpu_ns);
    watch->sums = lg_loop_sums_seen(loop);
}

void
lg_sample_baseline_delay(struct lg_watch *watch)
{
    watch->run_delay_ns = lg_schedstat_run_delay(watch->schedstat_fd);
    watch->throttled = lg_cgroup_throttled(watch->throttled_fd);
}

void
lg_sample_throttled(const struct lg_loop *loop, struct lg_watch *watch)
{
    uint64_t throttled = lg_cgroup_throttled(watch->throttled_fd);
    if (!watch->active) {
        watch->throttled = throttled;
    }
    if (throttled != LG_NONE && watch->throttled_first != LG_NONE) {
        lg_store_relaxed(&loop->entry->throttled, throttled - watch->throttled_first);
    }
}

/* "running", or the number and the arguments in hex. */
static bool
read_syscall(int fd, long *number, long *arg)
{
    char text[160];
    ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof(text) - 1, 0);
    if (n <= 0) {
        return false;
    }
    text[n] = '\0';
    char *end;
    *number = strtol(text, &end, 10);
    if (end == text || *number < 0) {
        return false;                   /* running, or about to */
    }
    *arg = (long)strtoul(end, NULL, 16);
    return true;
}
