/*
 * watchdog.c - the thread.
 */
#include "watchdog.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../../common/lg_clock.h"
#include "../../common/lg_seqlock.h"
#include "../agent.h"
#include "../pool.h"
#include "sample.h"
#include "../slices/slice.h"
#include "stall.h"
#include "../tasks_seen.h"
#include "../threshold.h"

#define SLOW_TICK_NS (50 * LG_NS_PER_MS)
#define QUIET_AFTER_NS LG_NS_PER_S
#define LINE_A_WORDS 8
#define CLOCK_JUMP_NS (50 * LG_NS_PER_MS)

struct lg_watchdog {
    struct lg_agent *agent;
    pthread_t thread;
    uint32_t stop;                      /* a futex: the thread sleeps on it */
    struct lg_stalls *stalls;
    struct lg_sampler *sampler;
    struct lg_watch watch[LG_LOOPS];
    struct lg_pystack_sample passing; /* scratch of look_in_passing() */
    uint64_t last_active_ns;
    uint64_t next_second_ns;
    uint64_t anchor_offset_ns;          /* real - mono at the last anchor */
    struct {                            /* for the LAG record of a second */
        uint64_t iterations;
        uint64_t busy_ns;
    } before[LG_LOOPS];
    uint64_t overflow_told;
};

struct overlap_search {
    uint64_t from_ns;
    uint64_t to_ns;
    struct lg_stall_state *found;
};

static void *run(void *arg);
static bool pause_until(struct lg_watchdog *w, uint64_t when_ns);
static void tick(struct lg_watchdog *w, uint64_t now_ns);
static void look_in_passing(struct lg_watchdog *w, struct lg_loop *loop,
                            const struct lg_loop_entry *line, uint64_t now_ns);
static void read_cpu_clock(struct lg_loop *loop);
static void move_threshold(struct lg_agent *agent, struct lg_loop *loop, uint64_t now_ns);
static void count_brief(struct lg_watch *watch, const struct lg_pystack_sample *frames);
static bool is_same_stack(const struct lg_pystack_sample *a, const struct lg_pystack_sample *b);
static void publish_glance(struct lg_glance *g, uint64_t now_ns, uint64_t endpoint_request,
                           const struct lg_pystack_sample *frames);
static void look(struct lg_watchdog *w, struct lg_loop *loop, uint64_t now_ns);
static void watch_over(struct lg_watchdog *w, struct lg_loop *loop, const struct lg_stall_key *key,
                       uint64_t start_ns, uint64_t now_ns, uint64_t threshold_ns,
                       const struct lg_loop_entry *line);
static void leave_watch(struct lg_loop *loop, struct lg_watch *watch);
static void read_notes(struct lg_watchdog *w, struct lg_loop *loop, uint64_t now_ns);
static void take_note(struct lg_watchdog *w, struct lg_loop *loop, const struct lg_note *note,
                      uint64_t now_ns);
static void close_stall(struct lg_watchdog *w, struct lg_loop *loop, const struct lg_note *note,
                        uint64_t now_ns);
static void take_cumulative(struct lg_watchdog *w, struct lg_loop *loop, const struct lg_note *note,
                            uint64_t now_ns);
static struct lg_stall_state *find_misread(struct lg_watchdog *w, struct lg_loop *loop,
                                           const struct lg_note *note);
static void overlap(void *context, struct lg_stall_state *state);
static void end_cumulative(struct lg_watchdog *w, struct lg_stall_state *state, uint64_t now_ns);
static void abandon_old(void *context, struct lg_stall_state *state);
static void count_gap(struct lg_watchdog *w, const struct lg_stall_state *state,
                      const struct lg_note *note);
static void every_second(struct lg_watchdog *w, uint64_t now_ns);
static void write_anchor(struct lg_watchdog *w, bool first);
static void tell_overflow(struct lg_watchdog *w, uint64_t now_ns);
static uint64_t fast_tick_ns(const struct lg_agent *agent);

/* ---- life -------------------------------------------------------------- */

int
lg_watchdog_start(struct lg_agent *agent)
{
    struct lg_watchdog *w = calloc(1, sizeof(*w));
    if (w == NULL) {
        return -ENOMEM;
    }
    w->agent = agent;
    w->stalls = lg_stalls_new(&agent->rec);
    w->sampler = lg_sampler_new(agent);
    for (int i = 0; i < LG_LOOPS; i++) {
        lg_watch_end(&w->watch[i]);
    }
    int err = w->stalls == NULL || w->sampler == NULL ? ENOMEM : 0;
    if (err == 0) {
        write_anchor(w, true);
        /* The application's signals are the application's: none is taken here,
         * and a handler never runs on this thread. */
        sigset_t all;
        sigset_t before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        agent->watchdog = w;
        err = pthread_create(&w->thread, NULL, run, w);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    if (err != 0) {
        agent->watchdog = NULL;
        lg_stalls_free(w->stalls);
        lg_sampler_free(w->sampler);
        free(w);
        return -err;
    }
    return 0;
}

void
lg_watchdog_stop(struct lg_agent *agent)
{
    struct lg_watchdog *w = agent->watchdog;
    if (w == NULL) {
        return;
    }
    lg_store32_release(&w->stop, 1);    /* pairs with the load in pause_until() */
    (void)syscall(SYS_futex, &w->stop, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    pthread_join(w->thread, NULL);
    lg_watchdog_forget(agent);
}

void
lg_watchdog_forget(struct lg_agent *agent)
{
    struct lg_watchdog *w = agent->watchdog;
    if (w == NULL) {
        return;
    }
    for (int i = 0; i < LG_LOOPS; i++) {
        lg_watch_end(&w->watch[i]);
    }
    lg_stalls_free(w->stalls);
    lg_sampler_free(w->sampler);
    free(w);
    agent->watchdog = NULL;
}

static void *
run(void *arg)
{
    struct lg_watchdog *w = arg;
    struct lg_agent *agent = w->agent;
    pthread_setname_np(pthread_self(), "loopguard");
    uint64_t when = lg_now_ns();
    w->last_active_ns = when;
    w->next_second_ns = when + LG_NS_PER_S;
    while (pause_until(w, when)) {
        uint64_t now = lg_now_ns();
        uint64_t fast = fast_tick_ns(agent);    /* the threshold may be moved */
        if (now > when + fast) {
            lg_add_single(&agent->rec.seg.self->watchdog_misses, 1);
        }
        tick(w, now);
        bool quiet = now - w->last_active_ns > QUIET_AFTER_NS;
        when = now + lg_slice_tick_ns(agent, quiet ? SLOW_TICK_NS : fast, quiet);
    }
    tick(w, lg_now_ns());
    return NULL;
}

/* The tick must fit into the shortest threshold a few times, or a short stall
 * is over before anyone looked. */
static uint64_t
fast_tick_ns(const struct lg_agent *agent)
{
    uint64_t tick_ns = agent->settings.config.watchdog_interval_ns;
    uint64_t third = lg_load_relaxed(&agent->settings.config.threshold_ns) / 3;
    tick_ns = third < tick_ns ? third : tick_ns;
    return tick_ns < LG_NS_PER_MS ? LG_NS_PER_MS : tick_ns;
}

/* False when it is time to end. One system call a tick: no condition variable. */
static bool
pause_until(struct lg_watchdog *w, uint64_t when_ns)
{
    struct timespec ts = {.tv_sec = (time_t)(when_ns / LG_NS_PER_S),
                          .tv_nsec = (long)(when_ns % LG_NS_PER_S)};
    while (lg_load32_acquire(&w->stop) == 0) {
        /* Until that time of CLOCK_MONOTONIC, or until the word is not 0. */
        if (syscall(SYS_futex, &w->stop, FUTEX_WAIT_BITSET_PRIVATE, 0, &ts, NULL,
                    FUTEX_BITSET_MATCH_ANY) != 0 &&
            errno != EINTR && errno != EAGAIN) {
            break;                      /* ETIMEDOUT */
        }
    }
    return lg_load32_acquire(&w->stop) == 0;
}

/* ---- one round --------------------------------------------------------- */

static void
tick(struct lg_watchdog *w, uint64_t now_ns)
{
    struct lg_agent *agent = w->agent;
    for (uint32_t i = 0; i < LG_LOOPS; i++) {
        struct lg_loop *loop = &agent->loops[i];
        if (lg_load32_acquire(&loop->used) == LG_LOOP_RETIRED) {
            continue;
        }
        if (loop->notes.slot != NULL) {
            read_notes(w, loop, now_ns);
        }
        /* Pairs with the release at the end of a loop's registration. */
        if (lg_load32_acquire(&loop->used) == LG_LOOP_USED) {
            look(w, loop, now_ns);
            if (agent->slices != NULL) {
                lg_slice_watch(w->sampler, loop, now_ns);
            }
        }
    }
    lg_add_single(&agent->rec.seg.self->watchdog_ticks, 1);
    if (now_ns >= w->next_second_ns) {
        every_second(w, now_ns);
        w->next_second_ns = now_ns + LG_NS_PER_S;
    }
}

/* Is the loop stuck? Its own words say what it does and since when. */
static void
look(struct lg_watchdog *w, struct lg_loop *loop, uint64_t now_ns)
{
    struct lg_agent *agent = w->agent;
    struct lg_loop_entry *e = loop->entry;
    struct lg_watch *watch = &w->watch[loop->index];
    union {
        uint64_t words[sizeof(struct lg_loop_entry) / 8];
        struct lg_loop_entry entry;
    } line;
    lg_watch_begin(watch, loop);
    move_threshold(agent, loop, now_ns);
    bool whole = lg_seq_read(&e->seq, line.words, LINE_A_WORDS, 4);
    const struct lg_loop_entry *a = &line.entry;
    uint64_t awake = lg_load_relaxed(&e->awake_since_ns);
    struct lg_stall_key key = {.loop = loop->index};
    uint64_t start = now_ns;
    uint64_t threshold = 0;
    if (whole && LG_LOOP_STATE(a->state) == LG_LOOP_STEP) {
        key.kind = LG_STALL_STEP;
        key.step = a->step;
        start = a->step_start_ns;
        threshold = lg_agent_threshold(agent, loop, (int32_t)LG_LO(a->endpoint_task));
    }
    else if (whole && loop->has_edges && awake != 0) {
        key.kind = LG_STALL_STEP;
        key.gap = true;
        key.step = lg_load_relaxed(&loop->edge_ns);
        start = key.step;
        threshold = lg_agent_was_paused(agent, start) ? 0 : loop->gap_threshold_ns;
    }
    bool late = threshold != 0 && now_ns > start && now_ns - start > threshold;
    if (late && key.gap && !lg_sample_in_loop(w->sampler, loop)) {
        /* run_forever() was left, perhaps for good: the thread's time is not the
         * loop's any more. The next poll begins anew. */
        late = false;
        lg_store32_relaxed(&loop->left, 1);
        lg_store_relaxed(&e->awake_since_ns, 0);
    }
    if (late) {
        watch_over(w, loop, &key, start, now_ns, threshold, a);
    }
    else {
        leave_watch(loop, watch);
        if (threshold != 0 && !lg_stall_same(&key, &watch->base_key)) {
            /* From the first sight of a step on, so that a stall's first sample
             * has nearly all of it. */
            lg_sample_baseline(loop, watch);
            watch->base_key = key;
            watch->base_ns = now_ns;
        }
        if (threshold != 0 && now_ns > start && now_ns - start >= LG_NS_PER_MS &&
            !lg_stall_same(&key, &watch->delay_key)) {
            lg_sample_baseline_delay(watch);
            watch->delay_key = key;
        }
        if (threshold != 0 && now_ns - start >= agent->settings.config.cumulative_min_step_ns &&
            now_ns > start && lg_sample_brief(w->sampler, loop, &w->passing)) {
            look_in_passing(w, loop, key.gap ? NULL : a, now_ns);
        }
    }
    if (awake != 0 || whole == false || LG_LOOP_STATE(a->state) == LG_LOOP_STEP) {
        w->last_active_ns = now_ns;
        read_cpu_clock(loop);           /* in poll it stands still */
    }
    lg_store_release(&e->heartbeat_ns, now_ns);
}

static void
read_cpu_clock(struct lg_loop *loop)
{
    uint64_t ns;
    if (lg_loop_cpu(loop, &ns)) {
        lg_store_relaxed(&loop->entry->cpu_now_ns, ns);
    }
}

/* The stack of what is no stall yet: for the one that it may become, and for the
 * cumulative window it may become part of. `line` is NULL between steps. */
static void
look_in_passing(struct lg_watchdog *w, struct lg_loop *loop, const struct lg_loop_entry *line,
                uint64_t now_ns)
{
    struct lg_watch *watch = &w->watch[loop->index];
    uint32_t endpoint = line != NULL ? LG_LO(line->endpoint_task) : LG_ENDPOINT_LOOP;
    uint32_t request_id = line != NULL ? LG_LO(line->request_tid) : 0;
    publish_glance(&loop->glance, now_ns, LG_PAIR(endpoint, request_id), &w->passing);
    if (line == NULL) {
        return;
    }
    bool same = watch->brief.endpoint == endpoint && watch->brief.request_id == request_id &&
                now_ns - watch->brief.at_ns <= w->agent->settings.config.cumulative_window_ns;
    if (!same) {
        memset(watch->brief.count, 0, sizeof(watch->brief.count));
        watch->brief.endpoint = endpoint;
        watch->brief.request_id = request_id;
    }
    watch->brief.at_ns = now_ns;
    count_brief(watch, &w->passing);
    publish_glance(&loop->usual, now_ns, LG_PAIR(endpoint, request_id),
                   &watch->brief.frames[watch->brief.best]);
}

/* Where a step happened to be when it was looked at; a step caught at its very
 * end shows only what leads to the application, so one look is not enough. */
static void
count_brief(struct lg_watch *watch, const struct lg_pystack_sample *frames)
{
    uint32_t at = 0;
    uint32_t best = 0;
    while (at < LG_BRIEF_STACKS - 1 && watch->brief.count[at] != 0 &&
           !is_same_stack(&watch->brief.frames[at], frames)) {
        at++;
    }
    if (watch->brief.count[at] != 0 && !is_same_stack(&watch->brief.frames[at], frames)) {
        watch->brief.count[at] = 0;     /* the last place is for those that come once */
    }
    watch->brief.count[at]++;
    watch->brief.frames[at] = *frames;
    for (uint32_t i = 1; i < LG_BRIEF_STACKS && watch->brief.count[i] != 0; i++) {
        uint32_t more = watch->brief.count[i];
        uint32_t most = watch->brief.count[best];
        if (more > most ||
            (more == most && watch->brief.frames[i].depth > watch->brief.frames[best].depth)) {
            best = i;
        }
    }
    watch->brief.best = best;
}

static bool
is_same_stack(const struct lg_pystack_sample *a, const struct lg_pystack_sample *b)
{
    return a->depth == b->depth &&
           memcmp(a->frames, b->frames, a->depth * sizeof(a->frames[0])) == 0;
}

static void
publish_glance(struct lg_glance *g, uint64_t now_ns, uint64_t endpoint_request,
               const struct lg_pystack_sample *frames)
{
    const uint64_t *from = (const uint64_t *)frames;
    uint64_t *to = (uint64_t *)&g->frames;
    size_t words = offsetof(struct lg_pystack_sample, frames) / sizeof(uint64_t) +
                   frames->depth * (sizeof(frames->frames[0]) / sizeof(uint64_t));
    lg_seq_begin(&g->seq);
    lg_store_relaxed(&g->at_ns, now_ns);
    lg_store_relaxed(&g->endpoint_request, endpoint_request);
    for (size_t i = 0; i < words; i++) {
        lg_store_relaxed(&to[i], from[i]);
    }
    lg_seq_end(&g->seq);
}

/* A calibrated or adaptive threshold; untracked time goes by the same one
 * unless the user gave it its own. */
static void
move_threshold(struct lg_agent *agent, struct lg_loop *loop, uint64_t now_ns)
{
    uint64_t ns = loop->threshold != NULL
                      ? lg_threshold_decide(loop->threshold, &agent->settings, now_ns)
                      : 0;
    if (ns == 0) {
        return;
    }
    lg_loop_set_threshold(loop, ns,
                          agent->settings.config.iteration_threshold_ns ==
                              agent->settings.config.threshold_ns);
}

/* Opens the stall at first sight, takes a sample, publishes. */
static void
watch_over(struct lg_watchdog *w, struct lg_loop *loop, const struct lg_stall_key *key,
           uint64_t start_ns, uint64_t now_ns, uint64_t threshold_ns,
           const struct lg_loop_entry *line)
{
    struct lg_agent *agent = w->agent;
    struct lg_watch *watch = &w->watch[loop->index];
    struct lg_loop_entry *e = loop->entry;
    struct lg_stall_state *state = lg_stall_find(w->stalls, key);
    if (state != NULL && !state->ongoing) {
        return;                         /* closed just now */
    }
    if (state == NULL) {
        state = lg_stall_new(w->stalls, key);
        memset(watch->seen, 0, sizeof(watch->seen));
        watch->active = true;
        watch->key = *key;
        watch->start_ns = start_ns;
        if (!lg_stall_same(key, &watch->base_key)) {
            lg_sample_baseline(loop, watch);
            watch->base_key = *key;
            watch->base_ns = now_ns;
        }
        watch->last_ns = watch->base_ns > start_ns ? watch->base_ns : start_ns;
        if (!lg_stall_same(key, &watch->delay_key)) {
            /* Seen late. What it waited for a core is not known; whether the
             * group was throttled goes by the reading before. */
            uint64_t throttled = watch->throttled;
            lg_sample_baseline_delay(watch);
            watch->throttled = throttled;
        }
        memset(&loop->votes, 0, sizeof(loop->votes));
        lg_store_relaxed(&loop->holder, 0);
        state->start_ns = start_ns;
        state->threshold_ns = threshold_ns;
        state->thread_name = loop->thread_name;
        state->tid = (uint32_t)loop->tid;
        state->flags = LG_STALL_WATCHED;
        uint64_t open_requests = lg_load_relaxed(&e->open_requests);
        if (key->gap) {
            state->endpoint = LG_ENDPOINT_LOOP;
            state->waiting = (uint32_t)open_requests;
        }
        else {
            state->endpoint = LG_LO(line->endpoint_task);
            state->request_id = LG_LO(line->request_tid);
            state->waiting = open_requests > 0 ? (uint32_t)open_requests - 1 : 0;
            if (line->state & LG_LOOP_AFTER_RESPONSE) {
                int after = lg_record_twin(&agent->rec, state->endpoint, LG_KIND_BACKGROUND,
                                           start_ns, LG_WAIT);
                state->endpoint = after > 0 ? (uint32_t)after : state->endpoint;
            }
        }
        lg_store_relaxed(&e->stall_since_ns, start_ns);
        lg_store_relaxed(&e->stall_step, key->step);
        lg_record_push(&agent->rec, LG_RING_WATCHDOG, now_ns, LG_REC_BLOCK_BEGIN, 0,
                       state->endpoint, state->ticket, loop->index, start_ns, key->step, 0);
    }
    else if (!key->gap) {
        uint32_t endpoint = LG_LO(line->endpoint_task);
        if (endpoint != LG_ENDPOINT_OTHER && state->endpoint == LG_ENDPOINT_OTHER) {
            state->endpoint = endpoint; /* named in the middle of the step */
        }
    }
    lg_sample(w->sampler, loop, watch, state, now_ns);
    lg_stall_write(w->stalls, state);
    lg_store_relaxed(&e->samples, state->samples);
    /* Pairs with the reader's acquire load: the entry it points to is whole. */
    lg_store_release(&e->stall_ticket, state->ticket + 1);
}

static void
leave_watch(struct lg_loop *loop, struct lg_watch *watch)
{
    if (watch->active) {
        watch->active = false;
        memset(&loop->votes, 0, sizeof(loop->votes));
        lg_store_release(&loop->entry->stall_ticket, 0);
    }
}

/* ---- notes of the loop thread ------------------------------------------ */

static void
read_notes(struct lg_watchdog *w, struct lg_loop *loop, uint64_t now_ns)
{
    const struct lg_note *note;
    while ((note = lg_note_peek(&loop->notes)) != NULL) {
        take_note(w, loop, note, now_ns);
        lg_note_drop(&loop->notes);
        w->last_active_ns = now_ns;
    }
    struct lg_watch *watch = &w->watch[loop->index];
    if (!watch->active) {
        /* A closing note was dropped: what is still "ongoing" is not. */
        struct lg_watchdog *context = w;
        lg_stalls_ongoing(w->stalls, loop->index, abandon_old, context);
    }
}

static void
abandon_old(void *context, struct lg_stall_state *state)
{
    struct lg_watchdog *w = context;
    uint64_t now = lg_now_ns();
    if (state->key.kind == LG_STALL_CUMULATIVE) {
        /* Nothing came after it that would have ended it. */
        if (now - state->start_ns > w->agent->settings.config.cumulative_window_ns) {
            end_cumulative(w, state, now);
        }
    }
    else if (now - (state->start_ns + state->duration_ns) > LG_NS_PER_S) {
        state->ongoing = false;
        lg_stall_write(w->stalls, state);
        lg_add_single(&w->agent->rec.seg.self->stall_collisions, 1);
    }
}

static void
take_note(struct lg_watchdog *w, struct lg_loop *loop, const struct lg_note *note, uint64_t now_ns)
{
    struct lg_stall_key key = {.loop = loop->index, .kind = LG_STALL_STEP, .step = note->step};
    struct lg_stall_state *state;
    switch (note->kind) {
    case LG_NOTE_STEP:
    case LG_NOTE_GAP:
    case LG_NOTE_ITERATION:
        close_stall(w, loop, note, now_ns);
        break;
    case LG_NOTE_CUMULATIVE:
        take_cumulative(w, loop, note, now_ns);
        break;
    case LG_NOTE_WAITED:
        key.gap = note->start_ns == note->step;
        state = lg_stall_find(w->stalls, &key);
        if (state != NULL) {
            state->waited = note->waited;
            lg_stall_write(w->stalls, state);
            if (state->endpoint == LG_ENDPOINT_LOOP) {
                lg_record_waited(&w->agent->rec, LG_ENDPOINT_LOOP, now_ns, note->waited.requests,
                                 note->waited.sum_ns);
            }
        }
        break;
    case LG_NOTE_RENAMED:
        lg_stalls_rename(w->stalls, loop->index, note->request_id, note->endpoint);
        break;
    }
}

static void
close_stall(struct lg_watchdog *w, struct lg_loop *loop, const struct lg_note *note,
            uint64_t now_ns)
{
    struct lg_agent *agent = w->agent;
    struct lg_watch *watch = &w->watch[loop->index];
    struct lg_stall_key key = {
        .loop = loop->index,
        .kind = note->kind == LG_NOTE_ITERATION ? LG_STALL_ITERATION : LG_STALL_STEP,
        .gap = note->kind == LG_NOTE_GAP,
        .step = note->step,
    };
    struct lg_stall_state *state = lg_stall_find(w->stalls, &key);
    bool watched = state != NULL;
    if (state == NULL) {
        state = find_misread(w, loop, note);
    }
    if (state == NULL) {
        state = lg_stall_new(w->stalls, &key);
        state->thread_name = loop->thread_name;
        state->tid = (uint32_t)loop->tid;
    }
    state->key = key;
    uint32_t callback =
        key.gap && watched && state->endpoint != LG_ENDPOINT_LOOP ? state->endpoint : 0;
    state->ongoing = false;
    state->start_ns = note->start_ns;
    state->duration_ns = note->duration_ns;
    state->threshold_ns = note->threshold_ns;
    state->endpoint = note->endpoint;
    state->cause = note->cause;
    state->task = note->task;
    state->steps = note->steps;
    state->waiting = note->open_requests > 0 ? (uint32_t)note->open_requests - 1 : 0;
    state->major_faults = note->major_faults;
    memcpy(state->parts_ns, note->parts_ns, sizeof(state->parts_ns));
    if (note->request_id != 0) {
        state->request_id = note->request_id;
    }
    bool waited = note->cause == LG_CAUSE_IO || note->cause == LG_CAUSE_DISK ||
                  note->cause == LG_CAUSE_LOCK || note->cause == LG_CAUSE_UNKNOWN;
    if (!waited) {
        state->call = 0;                /* seen in passing; it did not take the time */
        state->call_ns = 0;
    }
    if (note->call[0] != '\0') {
        state->call = lg_record_string(&agent->rec, note->call, strlen(note->call), LG_WAIT);
        state->call_ns = note->call_ns;
    }
    char name[128] = "";
    if (note->stack.depth != 0 && note->call_ns >= note->duration_ns / 2) {
        /* Taken in the thread at the call that made it: better than a sample. */
        uint32_t stack = lg_sample_intern(w->sampler, &note->stack, state->endpoint, now_ns, loop,
                                          name, sizeof(name));
        state->stack = stack != 0 ? stack : state->stack;
    }
    /* Nobody writes it but this thread. */
    const struct lg_glance *glance = &loop->glance;
    if (state->stack == 0 && glance->at_ns > note->start_ns &&
        glance->at_ns - note->start_ns < note->duration_ns) {
        state->stack = lg_sample_intern(w->sampler, &glance->frames, state->endpoint, now_ns, loop,
                                        name, sizeof(name));
    }
    if (key.gap && !note->blamed_elsewhere) {
        if (callback == 0 && name[0] != '\0') {
            int endpoint = lg_record_endpoint(&agent->rec, LG_KIND_CALLBACK, LG_METHOD_NONE, name,
                                              strlen(name), now_ns, LG_WAIT);
            callback = endpoint > 0 ? (uint32_t)endpoint : 0;
        }
        if (callback == 0) {
            callback = (uint32_t)lg_record_endpoint(&agent->rec, LG_KIND_CALLBACK, LG_METHOD_NONE,
                                                    "(unknown)", 9, now_ns, LG_WAIT);
        }
        state->endpoint = callback;
    }
    if (state->endpoint == LG_ENDPOINT_LOOP || key.gap) {
        count_gap(w, state, note);
    }
    if (state->stack != 0) {
        lg_record_stack_blame(&agent->rec, state->stack, note->duration_ns, now_ns);
    }
    lg_stall_write(w->stalls, state);
    lg_record_push(&agent->rec, LG_RING_WATCHDOG, now_ns, LG_REC_BLOCK_END, 0, state->endpoint,
                   state->ticket, loop->index, note->start_ns, note->duration_ns, key.kind);
    if (watch->active && watch->key.step == key.step && watch->key.gap == key.gap) {
        leave_watch(loop, watch);
    }
}

/* A thread that was kept from running at the very edge of a step looks to us as
 * if the step went on, or had not begun: the same time under another key. */
static struct lg_stall_state *
find_misread(struct lg_watchdog *w, struct lg_loop *loop, const struct lg_note *note)
{
    struct overlap_search search = {.from_ns = note->start_ns,
                                    .to_ns = note->start_ns + note->duration_ns};
    lg_stalls_ongoing(w->stalls, loop->index, overlap, &search);
    if (search.found != NULL) {
        search.found->request_id = 0;
        search.found->holder_endpoint = 0;
    }
    return search.found;
}

static void
overlap(void *context, struct lg_stall_state *state)
{
    struct overlap_search *search = context;
    if (state->key.kind != LG_STALL_CUMULATIVE && state->start_ns < search->to_ns &&
        state->start_ns + state->duration_ns > search->from_ns) {
        search->found = state;
    }
}

/* Rows of callbacks and of "(loop)" have this thread as their one writer. A
 * gap whose blame lies on a request's endpoint (its pool thread held the GIL)
 * is told as an event there; its counters belong to the GIL's side. */
static void
count_gap(struct lg_watchdog *w, const struct lg_stall_state *state, const struct lg_note *note)
{
    struct lg_recorder *rec = &w->agent->rec;
    uint64_t end = note->start_ns + note->duration_ns;
    uint32_t kind = LG_KEY_KIND(lg_load_relaxed(&rec->seg.endpoints[state->endpoint].key));
    if (kind != LG_KIND_CALLBACK && kind != LG_KIND_LOOP) {
        return;
    }
    if (note->kind == LG_NOTE_GAP) {
        lg_record_step(rec, state->endpoint, note->start_ns, end, note->parts_ns[LG_CAUSE_CPU]);
        lg_add_single(&w->agent->loops[state->key.loop].entry->blocks, 1);
        lg_add_single(&w->agent->loops[state->key.loop].entry->blocked_ns, note->duration_ns);
    }
    if (note->kind != LG_NOTE_ITERATION) {
        lg_record_block(rec, state->endpoint, end, note->duration_ns, note->parts_ns);
    }
}

static void
take_cumulative(struct lg_watchdog *w, struct lg_loop *loop, const struct lg_note *note,
                uint64_t now_ns)
{
    struct lg_stall_key key = {
        .loop = loop->index, .kind = LG_STALL_CUMULATIVE, .step = note->step};
    struct lg_stall_state *state = lg_stall_find(w->stalls, &key);
    if (note->finished && (state == NULL || !state->ongoing)) {
        return;                         /* ended already, perhaps long ago */
    }
    if (state == NULL) {
        state = lg_stall_new(w->stalls, &key);
        state->thread_name = loop->thread_name;
        state->tid = (uint32_t)loop->tid;
        lg_record_push(&w->agent->rec, LG_RING_WATCHDOG, now_ns, LG_REC_CUMULATIVE, 0,
                       note->endpoint, state->ticket, loop->index, note->duration_ns, note->steps,
                       0);
    }
    state->start_ns = note->start_ns;
    state->duration_ns = note->duration_ns;
    state->threshold_ns = note->threshold_ns;
    state->endpoint = note->endpoint;
    state->request_id = note->request_id;
    state->cause = note->cause;
    state->steps = note->steps;
    memcpy(state->parts_ns, note->parts_ns, sizeof(state->parts_ns));
    const struct lg_watch *watch = &w->watch[loop->index];
    const struct lg_pystack_sample *frames = &watch->brief.frames[watch->brief.best];
    if (watch->brief.count[0] != 0 && frames->depth != 0 &&
        watch->brief.endpoint == note->endpoint &&
        (note->request_id == 0 || watch->brief.request_id == note->request_id)) {
        uint32_t stack =
            lg_sample_intern(w->sampler, frames, note->endpoint, now_ns, loop, NULL, 0);
        state->stack = stack != 0 ? stack : state->stack;
        state->samples++;
    }
    if (note->finished) {
        end_cumulative(w, state, now_ns);
    }
    else {
        lg_stall_write(w->stalls, state);
    }
}

static void
end_cumulative(struct lg_watchdog *w, struct lg_stall_state *state, uint64_t now_ns)
{
    state->ongoing = false;
    if (state->stack != 0) {
        lg_record_stack_blame(&w->agent->rec, state->stack, state->duration_ns, now_ns);
    }
    lg_stall_write(w->stalls, state);
}

/* ---- once a second ----------------------------------------------------- */

static void
every_second(struct lg_watchdog *w, uint64_t now_ns)
{
    struct lg_agent *agent = w->agent;
    write_anchor(w, false);
    tell_overflow(w, now_ns);
    for (uint32_t i = 0; i < LG_LOOPS; i++) {
        struct lg_loop *loop = &agent->loops[i];
        if (lg_load32_acquire(&loop->used) != LG_LOOP_USED) {
            continue;
        }
        struct lg_loop_entry *e = loop->entry;
        uint64_t iterations = lg_load_relaxed(&e->iterations);
        uint64_t busy = lg_load_relaxed(&e->sum_lag_ns);
        lg_tasks_seen(agent, loop);
        lg_sample_throttled(loop, &w->watch[i]);
        read_cpu_clock(loop);
        if (iterations != w->before[i].iterations) {
            lg_record_push(&agent->rec, LG_RING_WATCHDOG, now_ns, LG_REC_LAG, 0, 0,
                           lg_load_relaxed(&e->last_lag_ns), iterations - w->before[i].iterations,
                           lg_load_relaxed(&e->ready_length), busy - w->before[i].busy_ns, i);
            lg_add_single(&agent->rec.seg.self->lag_samples, 1);
        }
        w->before[i].iterations = iterations;
        w->before[i].busy_ns = busy;
    }
    lg_pool_watch(agent->pool, w->sampler, now_ns);
    lg_store_relaxed(&agent->rec.seg.self->watchdog_cpu_ns, lg_thread_cpu_ns());
}

static void
write_anchor(struct lg_watchdog *w, bool first)
{
    struct lg_anchor *a = w->agent->rec.seg.anchor;
    struct lg_clocks c;
    lg_clocks_read(&c);
    uint64_t offset = c.real_ns - c.mono_ns;
    int64_t jump = (int64_t)(offset - w->anchor_offset_ns);
    bool stepped = !first && (jump > (int64_t)CLOCK_JUMP_NS || jump < -(int64_t)CLOCK_JUMP_NS);
    w->anchor_offset_ns = offset;
    lg_seq_begin(&a->seq);
    lg_store_relaxed(&a->mono_ns, c.mono_ns);
    lg_store_relaxed(&a->real_ns, c.real_ns);
    lg_store_relaxed(&a->boot_ns, c.boot_ns);
    lg_store_relaxed(&a->uncertainty_ns, c.uncertainty_ns);
    lg_store_relaxed(&a->clock_steps, lg_load_relaxed(&a->clock_steps) + (stepped ? 1 : 0));
    lg_seq_end(&a->seq);
    if (stepped) {
        lg_record_push(&w->agent->rec, LG_RING_WATCHDOG, c.mono_ns, LG_REC_CLOCK_STEP, 0, 0,
                       (uint64_t)jump, 0, 0, 0, 0);
    }
}

/* One rare record the first time that a table was full. */
static void
tell_overflow(struct lg_watchdog *w, uint64_t now_ns)
{
    uint64_t news = lg_load_relaxed(&w->agent->rec.overflow_told) & ~w->overflow_told;
    for (uint64_t kind = 0; news != 0 && kind < 64; kind++) {
        if (news & UINT64_C(1) << kind) {
            lg_record_push(&w->agent->rec, LG_RING_WATCHDOG, now_ns, LG_REC_OVERFLOW, 0, 0, kind, 0,
                           0, 0, 0);
        }
    }
    w->overflow_told |= news;
}
