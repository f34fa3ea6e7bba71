/*
 * blocked.c - is a loop blocked at this moment, and in what did a worker die?
 *
 * Live: a step (or an iteration) is longer than the threshold in force, and
 * two looks at least 2 ms apart found the same one: a loop that runs on
 * between them is busy, not blocked. The watchdog's stall, when it has one,
 * says why; without a watchdog line A alone is enough for the verdict.
 * A stopped process is not blocked: nobody could run it.
 * Dead: the same questions to the same lines, with the last heartbeat as now.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "model_private.h"

#define APART_NS (2 * LG_NS_PER_MS)

/* What one look at a loop says. */
enum candidate { NOTHING, IN_STEP, IN_ITERATION };

static enum candidate look(const struct lg_worker *w, const struct lg_loop_entry *e,
                           const struct lg_stall *stall);
static uint64_t step_threshold(const struct lg_worker *w, const struct lg_loop_entry *e);
static uint64_t iteration_threshold(const struct lg_worker *w, const struct lg_loop_entry *e);
static const struct lg_stall *stall_of(struct lg_worker *w, uint32_t loop,
                                       const struct lg_loop_entry *e);
static bool stays(struct lg_worker *w, uint32_t loop, enum candidate what, struct lg_loop_entry *e);
static void remember(struct lg_worker *w, uint32_t loop, const struct lg_loop_entry *e);
static void judge_live(struct lg_worker *w, struct lg_blocked *out);
static void judge_dead(struct lg_worker *w, struct lg_blocked *out);
static void describe_block(struct lg_worker *w, uint32_t loop, enum candidate what,
                           const struct lg_loop_entry *e, const struct lg_stall *stall,
                           struct lg_blocked *out);
static void describe_stall(struct lg_worker *w, const struct lg_stall *stall,
                           struct lg_blocked *out);
static bool last_ended(struct lg_worker *w, struct lg_blocked *out, uint64_t *ended_ns);
static void set_banner(struct lg_worker *w, size_t index, uint64_t identity,
                       enum lg_banner_kind kind, uint64_t ns);
static uint64_t longest_seen(const struct lg_worker *w, uint64_t now_ns);

void
lg_worker_judge(struct lg_top *top, struct lg_worker *w, size_t index)
{
    struct lg_blocked *b = &w->blocked;
    uint64_t ended_ns = 0;
    (void)top;
    memset(b, 0, sizeof(*b));
    if (w->state == LG_WORKER_CUT) {
        set_banner(w, index, 1, LG_BANNER_CUT, 0);
        return;
    }
    if (w->post_mortem) {
        judge_dead(w, b);
        bool blocked = lg_worker_in_block(w);
        set_banner(w, index, b->step,
                   w->state == LG_WORKER_EXITED ? LG_BANNER_EXITED
                   : blocked                    ? LG_BANNER_DIED_BLOCKED
                                                : LG_BANNER_DIED,
                   blocked ? b->for_ns : 0);
        return;
    }
    bool stopped = w->process_state == 'T' || w->process_state == 't';
    if (!stopped) {
        judge_live(w, b);
    }
    if (b->active) {
        set_banner(w, index, b->step, LG_BANNER_BLOCKED, b->for_ns);
    }
    else if (w->state == LG_WORKER_STALE) {
        set_banner(w, index, 1, LG_BANNER_NO_HEARTBEAT, w->heartbeat_age_ns);
    }
    else if (last_ended(w, b, &ended_ns) && lg_less(w->private->base_ns, ended_ns) < LG_ENDED_NS) {
        set_banner(w, index, b->step, LG_BANNER_ENDED, b->for_ns);
    }
    else {
        memset(b, 0, sizeof(*b));
        set_banner(w, index, 0, LG_BANNER_NONE, 0);
    }
}

static void
judge_live(struct lg_worker *w, struct lg_blocked *out)
{
    for (uint32_t i = 0; i < w->snap->loop_count; i++) {
        struct lg_loop_entry e = w->snap->loops[i];
        uint64_t state = LG_LOOP_STATE(e.state);
        if ((state != LG_LOOP_IDLE && state != LG_LOOP_STEP) || w->snap->loop_torn[i]) {
            continue;
        }
        const struct lg_stall *stall = stall_of(w, i, &e);
        enum candidate what = look(w, &e, stall);
        if (what == NOTHING || !stays(w, i, what, &e)) {
            remember(w, i, &e);
            continue;
        }
        struct lg_blocked b = {0};
        stall = stall_of(w, i, &e);
        describe_block(w, i, what, &e, stall, &b);
        b.active = true;
        /* Of several loops the one that is stuck longest. */
        if (!out->active || b.for_ns > out->for_ns) {
            *out = b;
        }
    }
    out->longest_seen_ns = out->active ? longest_seen(w, out->for_ns) : 0;
}

static void
judge_dead(struct lg_worker *w, struct lg_blocked *out)
{
    for (uint32_t i = 0; i < w->snap->loop_count && w->state == LG_WORKER_DEAD; i++) {
        const struct lg_loop_entry *e = &w->snap->loops[i];
        uint64_t state = LG_LOOP_STATE(e->state);
        const struct lg_stall *stall = stall_of(w, i, e);
        enum candidate what = look(w, e, stall);
        if (state == LG_LOOP_CLOSED) {
            continue;
        }
        /* Any step that was running is what it died in, short or long. */
        if (state == LG_LOOP_STEP && what == NOTHING) {
            what = IN_STEP;
        }
        struct lg_blocked b = {0};
        if (what != NOTHING) {
            describe_block(w, i, what, e, stall, &b);
            b.at_death = true;
        }
        if (w->snap->loop_torn[i]) {
            b.torn = true;
            b.at_death = true;
            b.loop = i;
            b.key = b.key.name != NULL ? b.key : lg_worker_key(w, UINT32_MAX);
        }
        if (b.at_death && (!out->at_death || b.for_ns > out->for_ns)) {
            *out = b;
        }
    }
    out->longest_seen_ns = out->at_death ? longest_seen(w, out->for_ns) : 0;
}

static enum candidate
look(const struct lg_worker *w, const struct lg_loop_entry *e, const struct lg_stall *stall)
{
    uint64_t now = w->private->base_ns;
    if (LG_LOOP_STATE(e->state) == LG_LOOP_STEP && e->step_start_ns != 0 &&
        e->step_start_ns <= now && now - e->step_start_ns > step_threshold(w, e)) {
        return IN_STEP;
    }
    if (e->awake_since_ns == 0 || e->awake_since_ns > now) {
        return NOTHING;
    }
    if (now - e->awake_since_ns > iteration_threshold(w, e)) {
        return IN_ITERATION;
    }
    /* The watchdog may know a lower threshold, an endpoint's own. */
    return stall != NULL && LG_INFO_KIND(stall->info) == LG_STALL_ITERATION ? IN_ITERATION
                                                                            : NOTHING;
}

/* The endpoint's own threshold wins over the loop's, that over the options'. */
static uint64_t
step_threshold(const struct lg_worker *w, const struct lg_loop_entry *e)
{
    const struct lg_endpoint *endpoint = lg_worker_endpoint(w, LG_LO(e->endpoint_task));
    uint64_t own_us = endpoint != NULL ? LG_HI(endpoint->in_flight_threshold_us) : 0;
    if (own_us != 0) {
        return lg_us_ns(own_us);
    }
    uint64_t set = w->snap->source.geo.config.threshold_ns;
    return e->threshold_ns != 0 ? e->threshold_ns : set != 0 ? set : 50 * LG_NS_PER_MS;
}

static uint64_t
iteration_threshold(const struct lg_worker *w, const struct lg_loop_entry *e)
{
    uint64_t own = w->snap->source.geo.config.iteration_threshold_ns;
    uint64_t set = w->snap->source.geo.config.threshold_ns;
    if (own != 0 && own != set) {
        return own;
    }
    return e->threshold_ns != 0 ? e->threshold_ns : set != 0 ? set : 50 * LG_NS_PER_MS;
}

/* The stall that the watchdog has open for this very step or iteration. */
static const struct lg_stall *
stall_of(struct lg_worker *w, uint32_t loop, const struct lg_loop_entry *e)
{
    if (e->stall_ticket == 0) {
        return NULL;
    }
    uint64_t ticket = e->stall_ticket - 1;
    lg_snapshot_reread_stall(w->snap, ticket);
    const struct lg_stall *stall = lg_snapshot_whole_stall(w->snap, ticket);
    if (stall == NULL || (LG_INFO_FLAGS(stall->info) & LG_STALL_ONGOING) == 0 ||
        LG_INFO_LOOP(stall->info) != loop) {
        return NULL;
    }
    switch (LG_INFO_KIND(stall->info)) {
    case LG_STALL_STEP:
        return LG_LOOP_STATE(e->state) == LG_LOOP_STEP && stall->step == e->step ? stall : NULL;
    case LG_STALL_ITERATION:
        return e->awake_since_ns != 0 ? stall : NULL;
    default:
        return NULL;
    }
}

/* The rule of two reads. An earlier look (the last tick) counts when it was
 * long enough ago; `*e` becomes the later look. */
static bool
stays(struct lg_worker *w, uint32_t loop, enum candidate what, struct lg_loop_entry *e)
{
    const struct lg_seen *seen = &w->private->seen[loop];
    struct lg_loop_entry again = *e;
    bool same = what == IN_STEP ? seen->step == e->step
                                : seen->awake_since_ns == e->awake_since_ns &&
                                      seen->iterations == e->iterations;
    uint64_t now = lg_now_ns();
    if (seen->at_ns != 0 && same && now - seen->at_ns >= APART_NS) {
        return true;
    }
    struct timespec pause = {.tv_nsec = (long)APART_NS};
    while (nanosleep(&pause, &pause) != 0) {}
    if (!lg_snapshot_reread_loop(w->snap, loop, &again)) {
        return false;
    }
    same = what == IN_STEP
               ? LG_LOOP_STATE(again.state) == LG_LOOP_STEP && again.step == e->step
               : again.awake_since_ns == e->awake_since_ns && again.iterations == e->iterations;
    *e = again;
    remember(w, loop, &again);
    return same;
}

static void
remember(struct lg_worker *w, uint32_t loop, const struct lg_loop_entry *e)
{
    struct lg_seen *seen = &w->private->seen[loop];
    bool same = seen->step == e->step && seen->iterations == e->iterations &&
                seen->awake_since_ns == e->awake_since_ns;
    /* A step that was seen before keeps the time of its first sight. */
    if (!same || seen->at_ns == 0) {
        *seen = (struct lg_seen){e->step, e->iterations, e->awake_since_ns, lg_now_ns()};
    }
}

static void
describe_block(struct lg_worker *w, uint32_t loop, enum candidate what,
               const struct lg_loop_entry *e, const struct lg_stall *stall, struct lg_blocked *out)
{
    uint64_t now = w->private->base_ns;
    bool in_step = LG_LOOP_STATE(e->state) == LG_LOOP_STEP;
    uint32_t endpoint = in_step ? LG_LO(e->endpoint_task) : UINT32_MAX;
    *out = (struct lg_blocked){
        .loop = loop,
        .kind = what == IN_STEP ? LG_STALL_STEP : LG_STALL_ITERATION,
        .step = what == IN_STEP ? e->step : e->iterations,
        .threshold_ns = what == IN_STEP ? step_threshold(w, e) : iteration_threshold(w, e),
        .key = lg_worker_key(w, UINT32_MAX),
        .thread = lg_snapshot_text(w->snap, LG_HI(e->kind_thread_name)),
        .tid = LG_HI(e->request_tid),
        .cause = LG_CAUSE_UNKNOWN,
        .call = "",
        .call_ns = LG_NONE,
        .samples = LG_NONE,
    };
    out->for_ns = lg_less(now, what == IN_STEP ? e->step_start_ns : e->awake_since_ns);
    for (size_t i = 0; i < LG_CAUSE_COUNT; i++) {
        out->parts_ns[i] = LG_NONE;
    }
    if (in_step && what == IN_STEP) {
        out->key = lg_worker_key(w, endpoint);
        out->request_id = LG_LO(e->request_tid);
        lg_worker_task(w, LG_HI(e->endpoint_task), out->task, sizeof(out->task));
        if ((e->state & LG_LOOP_AFTER_RESPONSE) != 0 && out->key.kind == LG_KIND_REQUEST) {
            out->key.kind = LG_KIND_BACKGROUND;
        }
    }
    out->waiting.requests = LG_NONE;
    if (e->open_requests != LG_NONE) {
        bool own = out->key.kind == LG_KIND_REQUEST && e->open_requests > 0;
        out->waiting.requests = e->open_requests - (own ? 1 : 0);
    }
    out->waiting.longest_ns = LG_NONE;
    out->waiting.sum_ns = LG_NONE;
    if (stall != NULL) {
        describe_stall(w, stall, out);
    }
    lg_worker_waiting_now(w, endpoint, &out->waiting);
}

static void
describe_stall(struct lg_worker *w, const struct lg_stall *stall, struct lg_blocked *out)
{
    const struct lg_stack_view *stack = lg_worker_stack(w, LG_LO(stall->stack_holder_stack));
    const struct lg_stack_view *holder = lg_worker_stack(w, LG_HI(stall->stack_holder_stack));
    out->cause = LG_INFO_CAUSE(stall->info);
    memcpy(out->parts_ns, stall->parts_ns, sizeof(out->parts_ns));
    out->call = lg_snapshot_text(w->snap, LG_LO(stall->call_thread));
    out->call_ns = stall->call_ns != 0 ? stall->call_ns : LG_NONE;
    out->samples = LG_LO(stall->samples_tid);
    if (stall->threshold_ns != 0) {
        out->threshold_ns = stall->threshold_ns;
    }
    if (out->kind == LG_STALL_ITERATION && lg_worker_endpoint(w, LG_LO(stall->endpoint_holder))) {
        out->key = lg_worker_key(w, LG_LO(stall->endpoint_holder));
        out->request_id = LG_LO(stall->request_task);
        lg_worker_task(w, LG_HI(stall->request_task), out->task, sizeof(out->task));
    }
    const char *thread = lg_snapshot_text(w->snap, LG_HI(stall->call_thread));
    out->thread = thread[0] != '\0' ? thread : out->thread;
    out->tid = LG_HI(stall->samples_tid) != 0 ? LG_HI(stall->samples_tid) : out->tid;
    if (stack != NULL) {
        out->stack = *stack;
        out->stack.moving = (LG_INFO_FLAGS(stall->info) & LG_STALL_MOVING) != 0;
    }
    if (holder != NULL) {
        out->holder_stack = *holder;
    }
    if (LG_HI(stall->endpoint_holder) != 0) {
        out->holder = lg_worker_key(w, LG_HI(stall->endpoint_holder));
    }
    out->waiting.requests = LG_LO(stall->waiting_open);
}

/* The newest block, when it is over: shown for some seconds, so that one
 * shorter than a tick is not missed. */
static bool
last_ended(struct lg_worker *w, struct lg_blocked *out, uint64_t *ended_ns)
{
    uint64_t head = w->snap->tables.stalls_head;
    if (head == 0 || w->snap->stall_count == 0) {
        return false;
    }
    if (head != w->private->newest_stall || lg_snapshot_stall(w->snap, head - 1) == NULL ||
        (LG_INFO_FLAGS(lg_snapshot_stall(w->snap, head - 1)->info) & LG_STALL_ONGOING) != 0) {
        lg_snapshot_reread_stall(w->snap, head - 1);
        w->private->newest_stall = head;
    }
    const struct lg_stall *stall = lg_snapshot_whole_stall(w->snap, head - 1);
    if (stall == NULL || (LG_INFO_FLAGS(stall->info) & LG_STALL_ONGOING) != 0 ||
        LG_INFO_KIND(stall->info) > LG_STALL_ITERATION) {
        return false;
    }
    *ended_ns = lg_plus(stall->start_ns, stall->duration_ns);
    if (*ended_ns > w->private->base_ns + LG_NS_PER_S) {
        return false;                   /* in the future: not a time to show */
    }
    *out = (struct lg_blocked){
        .loop = LG_INFO_LOOP(stall->info),
        .kind = LG_INFO_KIND(stall->info),
        .step = stall->step,
        .for_ns = stall->duration_ns,
        .threshold_ns = stall->threshold_ns,
        .key = lg_worker_key(w, LG_LO(stall->endpoint_holder)),
        .request_id = LG_LO(stall->request_task),
        .thread = "",
    };
    lg_worker_task(w, LG_HI(stall->request_task), out->task, sizeof(out->task));
    uint32_t kind = out->kind;
    describe_stall(w, stall, out);
    out->kind = kind;
    lg_stall_waited(w, stall, &out->waiting);
    out->longest_seen_ns = longest_seen(w, out->for_ns);
    return true;
}

static void
set_banner(struct lg_worker *w, size_t index, uint64_t identity, enum lg_banner_kind kind,
           uint64_t ns)
{
    struct lg_banner *b = &w->banner;
    uint64_t whole = identity * 16 + (uint64_t)kind;
    if (b->kind != kind || w->private->judged_identity != whole) {
        b->changed++;
    }
    w->private->judged_identity = whole;
    b->kind = kind;
    b->ns = ns;
    b->worker = index;
    b->process_state = w->process_state;
    b->alarm = kind == LG_BANNER_BLOCKED && ns >= LG_ALARM_NS;
}

static uint64_t
longest_seen(const struct lg_worker *w, uint64_t now_ns)
{
    uint64_t longest = now_ns;
    for (uint32_t i = 0; i < w->snap->endpoint_count; i++) {
        uint64_t ns = w->snap->endpoints[i].step_max_ns;
        longest = ns > longest ? ns : longest;
    }
    return longest;
}
