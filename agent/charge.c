/*
 * charge.c - from measured stretches to counters, and to notes about stalls.
 *
 * The short path (a step under a millisecond) is lg_charge_step() down to
 * charge_short(); everything else happens once in a millisecond at most.
 */
#include "charge.h"

#include <stdlib.h>
#include <string.h>

#include "../common/lg_clock.h"
#include "cumulative.h"
#include "task.h"
#include "tell.h"
#include "threshold.h"

#define LG_AFTERWARDS_NS (5 * LG_NS_PER_MS)
#define UNNAMED_STEPS_TOLD 64u

struct blame {
    uint32_t endpoint;
    bool elsewhere;
};

static void charge_stretch(struct lg_loop *loop, struct lg_owner *owner, int32_t endpoint,
                           const struct lg_step_end *s);
static void charge_short(struct lg_loop *loop, struct lg_owner *owner, int32_t endpoint,
                         const struct lg_step_end *s);
static void charge_long(struct lg_loop *loop, struct lg_owner *owner, int32_t endpoint,
                        const struct lg_step_end *s);
static void charge_counters(struct lg_loop *loop, struct lg_owner *owner, int32_t endpoint,
                            const struct lg_step_end *s, uint64_t cpu_ns);
static uint32_t measure(struct lg_loop *loop, uint64_t wall_ns, const struct lg_sums *from,
                        uint64_t gc_from_ns, uint64_t parts_ns[LG_CAUSE_COUNT],
                        uint64_t *major_faults);
static struct lg_sums sums_since(const struct lg_loop *loop, const struct lg_sums *from);
static struct blame find_blame(const struct lg_loop *loop, int32_t endpoint, uint32_t cause,
                               const uint64_t *parts_ns, uint64_t wall_ns, uint64_t threshold_ns);
static void count_block(struct lg_loop *loop, uint32_t endpoint, uint64_t end_ns,
                        uint64_t duration_ns, const uint64_t *parts_ns);
static void add_parts(struct lg_loop *loop, uint64_t end_ns, const uint64_t *parts_ns);
static struct lg_note *begin_note(struct lg_loop *loop, struct lg_note *spare);
static void end_note(struct lg_loop *loop, struct lg_note *note, const struct lg_note *spare);
static void note_call(struct lg_loop *loop, struct lg_note *note, uint64_t start_ns);
static void begin_waiters(struct lg_loop *loop, const struct lg_owner *guilty, uint32_t endpoint,
                          uint64_t step, uint64_t start_ns, uint64_t end_ns);
static void add_waiter(struct lg_waited_note *f, uint32_t endpoint, uint64_t ns);
static void rename_waiter(struct lg_waited_note *f, const struct lg_owner *owner);
static void end_waiters(struct lg_loop *loop);
static void count_waited(struct lg_loop *loop);
static void charge_unnamed(struct lg_loop *loop, struct lg_owner *owner, uint64_t now_ns);
static void charge_unnamed_steps(struct lg_recorder *rec, struct lg_owner *owner, uint64_t now_ns);
static void cumulative_step(struct lg_loop *loop, struct lg_owner *owner, int32_t endpoint,
                            uint64_t end_ns, uint64_t ns, const uint64_t *parts_ns);
static void cumulative_wide(struct lg_loop *loop, uint32_t endpoint, uint64_t end_ns, uint64_t ns,
                            const uint64_t *parts_ns);
static void forget_unless_open(struct lg_cumulative *c);
static void count_cumulative(struct lg_recorder *rec, uint32_t endpoint);
static uint32_t shown(int32_t endpoint);
static void add_to_parts(uint64_t sum_ns[LG_CAUSE_COUNT], const uint64_t *parts_ns);
static enum lg_cumulative_result cumulative_add(struct lg_loop *loop, struct lg_cumulative *c,
                                                uint32_t endpoint, uint32_t request_id,
                                                uint64_t end_ns, uint64_t ns,
                                                const uint64_t *parts_ns);
static void cumulative_note(struct lg_loop *loop, const struct lg_cumulative *c, uint32_t endpoint,
                            uint32_t request_id, bool finished);
static void tell_cumulative(struct lg_loop *loop, struct lg_owner *owner,
                            const struct lg_cumulative *c, int32_t endpoint, uint32_t request_id);
static void describe_cumulative(const struct lg_loop *loop, const struct lg_cumulative *c,
                                uint32_t endpoint, uint32_t request_id, bool finished,
                                struct lg_note *note);
static uint32_t scale_parts(const struct lg_cumulative *c, uint64_t parts_ns[LG_CAUSE_COUNT]);
static struct lg_cumulative *cumulative_new(struct lg_agent *agent);

/* ---- a step ------------------------------------------------------------ */

void
lg_charge_step(struct lg_loop *loop, struct lg_owner *owner, const struct lg_step_end *s)
{
    owner->on_loop_ns += s->wall_ns;
    owner->steps++;
    if (s->wall_ns > owner->longest_step_ns) {
        owner->longest_step_ns = s->wall_ns;
    }
    lg_add_single(&loop->entry->steps, 1);
    int32_t endpoint = owner->endpoint;
    if (owner->response_sent && owner->kind == LG_KIND_REQUEST && endpoint >= 0) {
        bool within = owner->response_ns > s->start_ns;
        uint64_t from = within ? owner->response_ns : s->start_ns;
        /* What a server does at the end of a response is no background task,
         * also when the thread was kept from running meanwhile. */
        if (s->end_ns - from >= LG_AFTERWARDS_NS) {
            struct lg_step_end after = *s;
            if (within) {
                struct lg_step_end before = *s;
                before.end_ns = from;
                before.wall_ns = from - s->start_ns;
                charge_stretch(loop, owner, endpoint, &before);
                after.start_ns = from;
                after.wall_ns = s->wall_ns - before.wall_ns;
            }
            endpoint = (int32_t)lg_agent_background(owner->agent, (uint32_t)endpoint, from);
            charge_stretch(loop, owner, endpoint, &after);
            return;
        }
    }
    charge_stretch(loop, owner, endpoint, s);
}

static void
charge_stretch(struct lg_loop *loop, struct lg_owner *owner, int32_t endpoint,
               const struct lg_step_end *s)
{
    if (s->wall_ns < LG_LONG_NS) {
        charge_short(loop, owner, endpoint, s);
    }
    else {
        charge_long(loop, owner, endpoint, s);
    }
}

static void
charge_short(struct lg_loop *loop, struct lg_owner *owner, int32_t endpoint,
             const struct lg_step_end *s)
{
    struct lg_sums calls = sums_since(loop, &s->sums);
    uint64_t in_calls = lg_sums_total(&calls);
    charge_counters(loop, owner, endpoint, s, in_calls < s->wall_ns ? s->wall_ns - in_calls : 0);
    lg_loop_busy(loop, s->wall_ns);
    if (loop->threshold != NULL) {
        lg_threshold_add(loop->threshold, s->wall_ns);
    }
}

static void
charge_counters(struct lg_loop *loop, struct lg_owner *owner, int32_t endpoint,
                const struct lg_step_end *s, uint64_t cpu_ns)
{
    if (endpoint >= 0) {
        lg_record_step(&loop->agent->rec, (uint32_t)endpoint, s->end_ns - s->wall_ns, s->end_ns,
                       cpu_ns);
    }
    else {
        owner->unnamed_ns += s->wall_ns;
        owner->unnamed_cpu_ns += cpu_ns;
        owner->unnamed_steps++;
    }
}

static void
charge_long(struct lg_loop *loop, struct lg_owner *owner, int32_t endpoint,
            const struct lg_step_end *s)
{
    struct lg_agent *agent = loop->agent;
    uint64_t parts[LG_CAUSE_COUNT];
    uint64_t faults;
    uint32_t cause = measure(loop, s->wall_ns, &s->sums, s->gc_ns, parts, &faults);
    charge_counters(loop, owner, endpoint, s, parts[LG_CAUSE_CPU] + parts[LG_CAUSE_GC]);
    add_parts(loop, s->end_ns, parts);
    uint64_t threshold = lg_agent_threshold(agent, loop, endpoint);
    if (s->wall_ns <= threshold) {
        if (loop->threshold != NULL) {
            lg_threshold_add(loop->threshold, s->wall_ns);
        }
        if (s->wall_ns >= agent->settings.config.cumulative_min_step_ns) {
            cumulative_step(loop, owner, endpoint, s->end_ns, s->wall_ns, parts);
        }
        return;
    }
    loop->told_in_iteration_ns += s->wall_ns;
    struct blame blame = find_blame(loop, endpoint, cause, parts, s->wall_ns, threshold);
    if (endpoint < 0 && !blame.elsewhere) {
        owner->unnamed_stalls++;
        owner->unnamed_block_ns += s->wall_ns;
        add_to_parts(owner->unnamed_parts_ns, parts);
    }
    else {
        count_block(loop, blame.endpoint, s->end_ns, s->wall_ns, parts);
    }
    if (!blame.elsewhere) {
        owner->blocks++;
        owner->blocked_ns += s->wall_ns;
    }
    lg_add_single(&loop->entry->blocks, 1);
    lg_add_single(&loop->entry->blocked_ns, s->wall_ns);
    uint32_t task = lg_task_name_now(agent, loop);
    if (loop->used != LG_LOOP_USED) {
        return;                         /* that ran Python code, and the agent was stopped */
    }
    struct lg_note spare;
    struct lg_note *note = begin_note(loop, &spare);
    if (note != NULL) {
        note->kind = LG_NOTE_STEP;
        note->endpoint = blame.endpoint;
        note->blamed_elsewhere = blame.elsewhere;
        note->request_id = owner->id;
        note->task = task;
        note->cause = cause;
        note->step = loop->step_number;
        note->start_ns = s->start_ns;
        note->duration_ns = s->wall_ns;
        note->threshold_ns = threshold;
        note->open_requests = loop->open_requests;
        note->major_faults = faults;
        memcpy(note->parts_ns, parts, sizeof(parts));
        note_call(loop, note, s->start_ns);
        end_note(loop, note, &spare);
        lg_tell_later(loop, owner, endpoint, note);
    }
    begin_waiters(loop, owner, blame.endpoint, loop->step_number, s->start_ns, s->end_ns);
}

/* Reads the thread's clocks and splits the stretch that ends now. */
static uint32_t
measure(struct lg_loop *loop, uint64_t wall_ns, const struct lg_sums *from, uint64_t gc_from_ns,
        uint64_t parts_ns[LG_CAUSE_COUNT], uint64_t *major_faults)
{
    struct lg_stretch stretch = {
        .wall_ns = wall_ns,
        .calls = sums_since(loop, from),
        .gc_ns = loop->gc_ns - gc_from_ns,
        .votes = wall_ns > lg_load_relaxed(&loop->threshold_ns) ? &loop->votes : NULL,
    };
    lg_meter_stretch(&loop->meter, wall_ns, &stretch.used);
    if (major_faults != NULL) {
        *major_faults = stretch.used.major_faults;
    }
    return lg_cause_decide(&stretch, parts_ns);
}

static struct lg_sums
sums_since(const struct lg_loop *loop, const struct lg_sums *from)
{
    struct lg_sums now = lg_loop_sums(loop);
    now.io -= from->io;
    now.disk -= from->disk;
    now.lock -= from->lock;
    now.gil -= from->gil;
    return now;
}

static struct blame
find_blame(const struct lg_loop *loop, int32_t endpoint, uint32_t cause, const uint64_t *parts_ns,
           uint64_t wall_ns, uint64_t threshold_ns)
{
    uint64_t own = lg_cause_own_ns(parts_ns);
    if (own > threshold_ns || own >= wall_ns / 2) {
        return (struct blame){endpoint < 0 ? LG_ENDPOINT_OTHER : (uint32_t)endpoint, false};
    }
    uint32_t holder = LG_LO(lg_load_relaxed(&loop->holder));
    if (cause == LG_CAUSE_GIL && holder != 0) {
        return (struct blame){holder - 1, true};
    }
    return (struct blame){LG_ENDPOINT_LOOP, true};
}

/* "(loop)" is counted by the watchdog, which is its one writer. */
static void
count_block(struct lg_loop *loop, uint32_t endpoint, uint64_t end_ns, uint64_t duration_ns,
            const uint64_t *parts_ns)
{
    if (endpoint != LG_ENDPOINT_LOOP) {
        lg_record_block(&loop->agent->rec, endpoint, end_ns, duration_ns, parts_ns);
    }
    struct lg_loop_second add = {.blocked_ns = duration_ns, .blocks = 1};
    lg_record_loop_second(&loop->agent->rec, loop->index, end_ns, &add, loop->open_requests);
}

static void
add_parts(struct lg_loop *loop, uint64_t end_ns, const uint64_t *parts_ns)
{
    for (int i = 0; i < LG_CAUSE_COUNT; i++) {
        lg_add_single(&loop->entry->parts_ns[i], parts_ns[i]);
    }
    struct lg_loop_second add = {
        .cpu_ns = parts_ns[LG_CAUSE_CPU],
        .gil_ns = parts_ns[LG_CAUSE_GIL],
        .io_ns = parts_ns[LG_CAUSE_IO] + parts_ns[LG_CAUSE_DISK] + parts_ns[LG_CAUSE_LOCK],
        .gc_ns = parts_ns[LG_CAUSE_GC],
    };
    lg_record_loop_second(&loop->agent->rec, loop->index, end_ns, &add, loop->open_requests);
}

/* A slot of the watchdog's queue; `spare` when that is full and the listener
 * wants to know all the same; or NULL. */
static struct lg_note *
begin_note(struct lg_loop *loop, struct lg_note *spare)
{
    struct lg_note *note = lg_note_begin(&loop->notes);
    if (note == NULL && lg_load32_relaxed(&loop->agent->is_heard)) {
        memset(spare, 0, sizeof(*spare));
        note = spare;
    }
    return note;
}

/* It may still be read afterwards: the slot is ours until the queue has gone
 * round. */
static void
end_note(struct lg_loop *loop, struct lg_note *note, const struct lg_note *spare)
{
    if (note != spare) {
        lg_note_publish(&loop->notes);
    }
}

/* The longest blocking call of the stretch, with the stack taken at its end.
 * After the note's duration is set. */
static void
note_call(struct lg_loop *loop, struct lg_note *note, uint64_t start_ns)
{
    note->call_ns = lg_calls_longest(&loop->calls, start_ns, note->call, sizeof(note->call));
    if (note->call_ns < note->duration_ns / 8) {
        note->call[0] = '\0';           /* there always is some call; it is not the story */
        note->call_ns = 0;
    }
    if (note->call_ns != 0 && loop->slow_call_ns >= start_ns) {
        note->stack = loop->slow_call_stack;
    }
}

/* ---- time of nobody ---------------------------------------------------- */

void
lg_charge_gap(struct lg_loop *loop, uint64_t now_ns)
{
    if (loop->edge_ns == 0) {           /* the loop was only just registered */
        loop->edge_ns = now_ns;
        return;
    }
    uint64_t wall = now_ns - loop->edge_ns;
    uint64_t parts[LG_CAUSE_COUNT];
    uint64_t faults;
    uint32_t cause = measure(loop, wall, &loop->edge_sums, loop->edge_gc_ns, parts, &faults);
    for (int i = 0; i < LG_CAUSE_COUNT; i++) {
        lg_add_single(&loop->entry->parts_ns[i], parts[i]);
    }
    loop->told_in_iteration_ns += wall;
    if (lg_agent_was_paused(loop->agent, loop->edge_ns)) {
        return;                         /* of requests that pass bare, perhaps */
    }
    struct lg_note spare;
    struct lg_note *note = begin_note(loop, &spare);
    if (note == NULL) {
        return;
    }
    uint32_t holder = LG_LO(lg_load_relaxed(&loop->holder));
    note->kind = LG_NOTE_GAP;
    note->endpoint = cause == LG_CAUSE_GIL && holder != 0 ? holder - 1 : LG_ENDPOINT_LOOP;
    note->blamed_elsewhere =
        find_blame(loop, -1, cause, parts, wall, loop->gap_threshold_ns).elsewhere;
    note->cause = cause;
    note->step = loop->edge_ns;     /* a gap is known by its start */
    note->start_ns = loop->edge_ns;
    note->duration_ns = wall;
    note->threshold_ns = loop->gap_threshold_ns;
    note->open_requests = loop->open_requests;
    note->major_faults = faults;
    memcpy(note->parts_ns, parts, sizeof(parts));
    note_call(loop, note, loop->edge_ns);
    end_note(loop, note, &spare);
    lg_tell_later(loop, NULL, -1, note);
    begin_waiters(loop, NULL, note->endpoint, loop->edge_ns, loop->edge_ns, now_ns);
}

void
lg_charge_iteration(struct lg_loop *loop, uint64_t now_ns)
{
    struct lg_agent *agent = loop->agent;
    struct lg_loop_entry *e = loop->entry;
    uint64_t gap = now_ns - loop->edge_ns;
    if (gap > loop->gap_threshold_ns) {
        lg_charge_gap(loop, now_ns);
    }
    else {
        lg_loop_busy(loop, gap);        /* else what is unread would grow for ever */
    }
    uint64_t busy = now_ns - loop->awake_ns;
    lg_store_relaxed(&e->last_lag_ns, busy);
    if (busy > lg_load_relaxed(&e->max_lag_ns)) {
        lg_store_relaxed(&e->max_lag_ns, busy);
        lg_store_relaxed(&e->max_lag_at_ns, now_ns);
    }
    if (busy > loop->unread_lag_ns) {
        bool is_cut = loop->lag_read_ns > loop->awake_ns;   /* its first part was read */
        uint64_t unread = is_cut ? now_ns - loop->lag_read_ns : busy;
        if (unread > loop->unread_lag_ns) {
            loop->unread_lag_ns = unread;
        }
    }
    lg_add_single(&e->sum_lag_ns, busy);
    loop->iteration++;
    lg_store_relaxed(&e->iterations, loop->iteration - loop->first_iteration);
    (void)lg_hist_add(loop->lag_hist, busy);
    lg_record_loop_busy(&agent->rec, loop->index, loop->awake_ns, now_ns);
    /* Many short ones together: what was told does not explain half of it. */
    if (busy > agent->settings.config.iteration_threshold_ns &&
        loop->told_in_iteration_ns < busy / 2 && !lg_agent_was_paused(agent, loop->awake_ns)) {
        struct lg_note spare;
        struct lg_note *note = begin_note(loop, &spare);
        if (note != NULL) {
            note->kind = LG_NOTE_ITERATION;
            note->endpoint = LG_ENDPOINT_LOOP;
            note->cause =
                measure(loop, busy, &loop->awake_sums, loop->awake_gc_ns, note->parts_ns, NULL);
            if (note->cause == LG_CAUSE_GIL && lg_load_relaxed(&loop->holder) != 0) {
                note->endpoint = LG_LO(lg_load_relaxed(&loop->holder)) - 1;
                note->blamed_elsewhere = true;
            }
            note->step = loop->iteration;
            note->start_ns = loop->awake_ns;
            note->duration_ns = busy;
            note->threshold_ns = agent->settings.config.iteration_threshold_ns;
            note->open_requests = loop->open_requests;
            note->steps = (uint32_t)(lg_load_relaxed(&e->steps) - loop->edge_steps);
            note_call(loop, note, loop->awake_ns);
            end_note(loop, note, &spare);
            lg_tell_later(loop, NULL, -1, note);
        }
    }
    if (loop->waiters.stall_step != 0 && loop->iteration > loop->waiters.last_iteration) {
        end_waiters(loop);
    }
}

/* ---- who waited -------------------------------------------------------- */

void
lg_charge_open(struct lg_loop *loop, struct lg_owner *owner, int change)
{
    (void)owner;
    loop->open_requests += (uint32_t)change;
    lg_store_relaxed(&loop->entry->open_requests, loop->open_requests);
    if (change < 0) {
        lg_add_single(&loop->entry->requests, 1);
    }
}

/* The rest of this iteration and the next one run those who waited. */
static void
begin_waiters(struct lg_loop *loop, const struct lg_owner *guilty, uint32_t endpoint, uint64_t step,
              uint64_t start_ns, uint64_t end_ns)
{
    struct lg_waiters *w = &loop->waiters;
    if (w->stall_step != 0) {
        end_waiters(loop);
    }
    memset(w, 0, sizeof(*w));
    w->stall_step = step;
    w->start_ns = start_ns;
    w->end_ns = end_ns;
    w->endpoint = endpoint;
    w->guilty = guilty;
    w->last_iteration = loop->iteration + 1;
}

void
lg_charge_waiter(struct lg_loop *loop, struct lg_owner *owner, uint64_t now_ns)
{
    struct lg_waiters *w = &loop->waiters;
    if (loop->waited_due.stall_step != 0) {
        count_waited(loop);
    }
    if (w->stall_step == 0) {
        return;
    }
    if (!loop->has_edges && now_ns - w->end_ns > 100 * LG_NS_PER_MS) {
        end_waiters(loop);              /* no iterations are seen: a short while stands for one */
        return;
    }
    if (owner == w->guilty || owner->waited_step == w->stall_step || owner->start_ns >= w->end_ns ||
        (owner->kind != LG_KIND_REQUEST && owner->kind != LG_KIND_WEBSOCKET)) {
        return;
    }
    owner->waited_step = w->stall_step;
    uint64_t from = owner->start_ns > w->start_ns ? owner->start_ns : w->start_ns;
    uint64_t ns = now_ns - from;
    struct lg_waited_note *f = &w->found;
    f->requests++;
    f->sum_ns += ns;
    if (ns > f->longest_ns) {
        f->longest_ns = ns;
    }
    owner->waited_ns = ns;
    add_waiter(f, shown(owner->endpoint), ns);
}

static void
add_waiter(struct lg_waited_note *f, uint32_t endpoint, uint64_t ns)
{
    for (int i = 0; i < LG_WAITED_ENDPOINTS; i++) {
        if (f->by[i].requests == 0 || f->by[i].endpoint == endpoint) {
            f->by[i].endpoint = endpoint;
            f->by[i].requests++;
            f->by[i].ns += ns;
            break;
        }
    }
}

/* It was counted under "(other)" a moment ago: requests that arrive during a
 * stall begin without a name. */
static void
rename_waiter(struct lg_waited_note *f, const struct lg_owner *owner)
{
    for (int i = 0; i < LG_WAITED_ENDPOINTS; i++) {
        if (f->by[i].requests != 0 && f->by[i].endpoint == LG_ENDPOINT_OTHER) {
            f->by[i].requests--;
            f->by[i].ns -= owner->waited_ns;
            add_waiter(f, (uint32_t)owner->endpoint, owner->waited_ns);
            break;
        }
    }
}

/* With or without the GIL: the note goes out, the counters wait for the GIL. */
static void
end_waiters(struct lg_loop *loop)
{
    struct lg_waiters *w = &loop->waiters;
    if (w->found.requests != 0) {
        struct lg_note *note = lg_note_begin(&loop->notes);
        if (note != NULL) {
            note->kind = LG_NOTE_WAITED;
            note->step = w->stall_step;
            note->start_ns = w->start_ns;
            note->waited = w->found;
            lg_note_publish(&loop->notes);
        }
        loop->waited_due = *w;
    }
    w->stall_step = 0;
}

static void
count_waited(struct lg_loop *loop)
{
    struct lg_waiters *w = &loop->waited_due;
    if (w->endpoint != LG_ENDPOINT_LOOP) {
        lg_record_waited(&loop->agent->rec, w->endpoint, w->end_ns, w->found.requests,
                         w->found.sum_ns);
    }
    w->stall_step = 0;
}

/* ---- phases of an owner ------------------------------------------------ */

struct lg_blocked
lg_charge_blocked(const struct lg_owner *owner)
{
    struct lg_blocked blocked = {owner->blocks, owner->blocked_ns};
    struct lg_loop *loop = lg_loop_current();
    if (loop == NULL || loop->running != owner) {
        return blocked;
    }
    uint64_t wall = lg_now_ns() - loop->step_start_ns - loop->excluded_ns;
    uint64_t threshold = lg_agent_threshold(loop->agent, loop, owner->endpoint);
    if (wall > threshold) {
        uint64_t parts[LG_CAUSE_COUNT];
        struct lg_meter meter = loop->meter;    /* the step's end wants it as it is */
        uint32_t cause = measure(loop, wall, &loop->step_sums, loop->step_gc_ns, parts, NULL);
        loop->meter = meter;
        if (!find_blame(loop, owner->endpoint, cause, parts, wall, threshold).elsewhere) {
            blocked.count++;
            blocked.ns += wall;
        }
    }
    return blocked;
}

void
lg_charge_response_sent(struct lg_owner *owner)
{
    uint64_t now = lg_now_ns();
    owner->response_sent = true;
    owner->response_ns = now;
    struct lg_loop *loop = lg_loop_current();
    if (loop == NULL || loop->running != owner) {
        return;
    }
    uint64_t wall = now - loop->step_start_ns - loop->excluded_ns;
    if (wall >= LG_LONG_NS) {
        struct lg_step_end s = {
            .start_ns = loop->step_start_ns,
            .end_ns = now,
            .wall_ns = wall,
            .sums = loop->step_sums,
            .gc_ns = loop->step_gc_ns,
        };
        owner->response_sent = false;   /* this stretch is still the request's */
        lg_charge_step(loop, owner, &s);
        owner->response_sent = true;
        loop->step_start_ns = now;
        loop->excluded_ns = 0;
        loop->step_sums = lg_loop_sums(loop);
        loop->step_gc_ns = loop->gc_ns;
    }
    lg_loop_publish(loop, owner, now, LG_LOOP_STEP | LG_LOOP_AFTER_RESPONSE);
}

void
lg_charge_named(struct lg_owner *owner)
{
    struct lg_loop *loop = owner->loop;
    if (owner->waited_step != 0 && loop != NULL && loop->waiters.stall_step == owner->waited_step) {
        rename_waiter(&loop->waiters.found, owner);
    }
    if (owner->unnamed_steps != 0) {    /* as nearly none has: routing is in the first step */
        charge_unnamed(loop, owner, lg_now_ns());
    }
    if (loop != NULL && loop->running == owner) {
        lg_loop_rename(loop, owner);
    }
}

static void
charge_unnamed(struct lg_loop *loop, struct lg_owner *owner, uint64_t now_ns)
{
    struct lg_recorder *rec = &owner->agent->rec;
    uint32_t endpoint = (uint32_t)owner->endpoint;
    charge_unnamed_steps(rec, owner, now_ns);
    if (owner->unnamed_stalls != 0) {
        lg_record_block(rec, endpoint, now_ns, owner->unnamed_block_ns, owner->unnamed_parts_ns);
        lg_add_single(&rec->seg.endpoints[endpoint].blocks, owner->unnamed_stalls - 1);
    }
    for (; owner->unnamed_cumulative > 0; owner->unnamed_cumulative--) {
        count_cumulative(rec, endpoint);
        owner->unnamed_stalls++;
    }
    for (uint32_t n = owner->unnamed_cuts; n > 0 && loop != NULL; n--) {
        cumulative_wide(loop, endpoint, now_ns, owner->unnamed_cut_ns / owner->unnamed_cuts,
                        owner->unnamed_cut_parts_ns);
        memset(owner->unnamed_cut_parts_ns, 0, sizeof(owner->unnamed_cut_parts_ns));
    }
    owner->unnamed_cuts = 0;
    if (owner->unnamed_stalls != 0 && loop != NULL) {
        struct lg_note *note = lg_note_begin(&loop->notes);
        if (note != NULL) {
            note->kind = LG_NOTE_RENAMED;
            note->request_id = owner->id;
            note->endpoint = endpoint;
            lg_note_publish(&loop->notes);
        }
        owner->unnamed_stalls = 0;
    }
    if (owner->untold != NULL) {
        lg_tell_named(owner);
    }
}

/* One by one, so that the longest of them is the longest: the others share what
 * is left. Very many are counted only. */
static void
charge_unnamed_steps(struct lg_recorder *rec, struct lg_owner *owner, uint64_t now_ns)
{
    uint32_t endpoint = (uint32_t)owner->endpoint;
    uint64_t longest =
        owner->longest_step_ns < owner->unnamed_ns ? owner->longest_step_ns : owner->unnamed_ns;
    uint64_t rest = owner->unnamed_ns - longest;
    uint32_t others = owner->unnamed_steps - 1;
    uint32_t told = others < UNNAMED_STEPS_TOLD ? others : UNNAMED_STEPS_TOLD;
    lg_record_step(rec, endpoint, now_ns - longest, now_ns, owner->unnamed_cpu_ns);
    for (uint32_t i = 0; i < told; i++) {
        lg_record_step(rec, endpoint, now_ns - rest / others, now_ns, 0);
    }
    struct lg_endpoint *e = &rec->seg.endpoints[endpoint];
    lg_add_single(&e->steps, others - told);
    lg_add_single(&e->on_loop_sum_ns, others == 0 ? 0 : rest - rest / others * told);
    owner->unnamed_steps = 0;
}

void
lg_charge_finished(struct lg_owner *owner, uint64_t now_ns)
{
    struct lg_loop *loop = owner->loop;
    if (loop != NULL && (owner->kind == LG_KIND_REQUEST || owner->kind == LG_KIND_WEBSOCKET)) {
        lg_charge_open(loop, owner, -1);
        struct lg_loop_second add = {.requests = 1};
        lg_record_loop_second(&owner->agent->rec, loop->index, now_ns, &add, loop->open_requests);
        if (loop->waited_due.stall_step != 0) {
            count_waited(loop);
        }
    }
    struct lg_cumulative *c = owner->cumulative;
    if (c != NULL) {
        if (c->open && loop != NULL) {
            cumulative_note(loop, c, shown(owner->endpoint), owner->id, true);
        }
        c->next_free = owner->agent->free_cumulative;
        owner->agent->free_cumulative = c;
        owner->cumulative = NULL;
    }
}

/* ---- many short steps -------------------------------------------------- */

/* A request's own window tells before its endpoint's, and that before the
 * loop's; time told by one is not told again by the wider ones. A request
 * without a name yet waits with its endpoint's. */
static void
cumulative_step(struct lg_loop *loop, struct lg_owner *owner, int32_t endpoint, uint64_t end_ns,
                uint64_t ns, const uint64_t *parts_ns)
{
    struct lg_agent *agent = loop->agent;
    if (agent->settings.config.cumulative_threshold_ns == 0) {
        return;
    }
    if (owner->cumulative == NULL && owner->kind != LG_KIND_TASK) {
        owner->cumulative = cumulative_new(agent);
    }
    enum lg_cumulative_result own = owner->cumulative == NULL
                                        ? LG_CUMULATIVE_BELOW
                                        : cumulative_add(loop, owner->cumulative, shown(endpoint),
                                                         owner->id, end_ns, ns, parts_ns);
    if (own == LG_CUMULATIVE_OPENED) {
        owner->blocks++;
        owner->blocked_ns += owner->cumulative->total_ns;
        tell_cumulative(loop, owner, owner->cumulative, endpoint, owner->id);
    }
    else if (own == LG_CUMULATIVE_GREW) {
        owner->blocked_ns += ns;
    }
    if (own == LG_CUMULATIVE_OPENED && endpoint >= 0) {
        count_cumulative(&agent->rec, (uint32_t)endpoint);
    }
    else if (own == LG_CUMULATIVE_OPENED) {
        owner->unnamed_cumulative++;
    }
    if (own == LG_CUMULATIVE_OPENED || own == LG_CUMULATIVE_GREW) {
        owner->unnamed_cuts = 0;
        owner->unnamed_cut_ns = 0;
        memset(owner->unnamed_cut_parts_ns, 0, sizeof(owner->unnamed_cut_parts_ns));
        if (endpoint >= 0) {
            forget_unless_open(agent->cumulative_of[endpoint]);
        }
        forget_unless_open(loop->cumulative);
    }
    else if (endpoint >= 0) {
        cumulative_wide(loop, (uint32_t)endpoint, end_ns, ns, parts_ns);
    }
    else {
        owner->unnamed_cuts++;
        owner->unnamed_cut_ns += ns;
        add_to_parts(owner->unnamed_cut_parts_ns, parts_ns);
    }
}

/* The windows of the endpoint and of the loop. */
static void
cumulative_wide(struct lg_loop *loop, uint32_t endpoint, uint64_t end_ns, uint64_t ns,
                const uint64_t *parts_ns)
{
    struct lg_agent *agent = loop->agent;
    struct lg_cumulative **of_endpoint = &agent->cumulative_of[endpoint];
    if (*of_endpoint == NULL) {
        *of_endpoint = cumulative_new(agent);
    }
    if (loop->cumulative == NULL) {
        loop->cumulative = cumulative_new(agent);
    }
    enum lg_cumulative_result result =
        *of_endpoint == NULL
            ? LG_CUMULATIVE_BELOW
            : cumulative_add(loop, *of_endpoint, endpoint, 0, end_ns, ns, parts_ns);
    if (result == LG_CUMULATIVE_OPENED) {
        tell_cumulative(loop, NULL, *of_endpoint, (int32_t)endpoint, 0);
        count_cumulative(&agent->rec, endpoint);
    }
    if (result == LG_CUMULATIVE_OPENED || result == LG_CUMULATIVE_GREW) {
        forget_unless_open(loop->cumulative);
    }
    else if (loop->cumulative != NULL &&
             cumulative_add(loop, loop->cumulative, LG_ENDPOINT_LOOP, 0, end_ns, ns, parts_ns) ==
                 LG_CUMULATIVE_OPENED) {
        tell_cumulative(loop, NULL, loop->cumulative, (int32_t)LG_ENDPOINT_LOOP, 0);
    }
}

static void
forget_unless_open(struct lg_cumulative *c)
{
    if (c != NULL && !c->open) {
        lg_cumulative_reset(c);
    }
}

static void
count_cumulative(struct lg_recorder *rec, uint32_t endpoint)
{
    uint64_t *word = &rec->seg.endpoints[endpoint].cumulative_waited;
    uint64_t v = lg_load_relaxed(word);
    lg_store_relaxed(word, LG_PAIR(LG_LO(v) + 1, LG_HI(v)));
}

/* The row that stands for one without a name. */
static uint32_t
shown(int32_t endpoint)
{
    return endpoint < 0 ? LG_ENDPOINT_OTHER : (uint32_t)endpoint;
}

static void
add_to_parts(uint64_t sum_ns[LG_CAUSE_COUNT], const uint64_t *parts_ns)
{
    for (int i = 0; i < LG_CAUSE_COUNT; i++) {
        sum_ns[i] += parts_ns[i];
    }
}

/* Adds a step to one window and tells when that makes, or ends, an event. */
static enum lg_cumulative_result
cumulative_add(struct lg_loop *loop, struct lg_cumulative *c, uint32_t endpoint,
               uint32_t request_id, uint64_t end_ns, uint64_t ns, const uint64_t *parts_ns)
{
    const struct lg_config_info *config = &loop->agent->settings.config;
    struct lg_cumulative ended;
    enum lg_cumulative_result result = lg_cumulative_add(
        c, config->cumulative_window_ns, config->cumulative_threshold_ns, end_ns, ns, &ended);
    add_to_parts(c->parts_ns, parts_ns);
    switch (result) {
    case LG_CUMULATIVE_OPENED:
        c->id = ++loop->agent->next_cumulative_id;
        lg_add_single(&loop->entry->cumulative_events, 1);
        cumulative_note(loop, c, endpoint, request_id, false);
        break;
    case LG_CUMULATIVE_GREW:
        cumulative_note(loop, c, endpoint, request_id, false);
        break;
    case LG_CUMULATIVE_ENDED:
        cumulative_note(loop, &ended, endpoint, request_id, true);
        break;
    case LG_CUMULATIVE_BELOW:
        break;
    }
    return result;
}

static void
cumulative_note(struct lg_loop *loop, const struct lg_cumulative *c, uint32_t endpoint,
                uint32_t request_id, bool finished)
{
    struct lg_note *note = lg_note_begin(&loop->notes);
    if (note == NULL) {
        return;
    }
    describe_cumulative(loop, c, endpoint, request_id, finished, note);
    lg_note_publish(&loop->notes);
}

/* Once for each window, when it opens. */
static void
tell_cumulative(struct lg_loop *loop, struct lg_owner *owner, const struct lg_cumulative *c,
                int32_t endpoint, uint32_t request_id)
{
    if (lg_load32_relaxed(&loop->agent->is_heard)) {
        struct lg_note note;
        memset(&note, 0, sizeof(note));
        describe_cumulative(loop, c, shown(endpoint), request_id, false, &note);
        lg_tell_later(loop, owner, endpoint, &note);
    }
}

static void
describe_cumulative(const struct lg_loop *loop, const struct lg_cumulative *c, uint32_t endpoint,
                    uint32_t request_id, bool finished, struct lg_note *note)
{
    note->kind = LG_NOTE_CUMULATIVE;
    note->endpoint = endpoint;
    note->request_id = request_id;
    note->steps = c->total_steps;
    note->finished = finished;
    note->step = c->id;
    note->start_ns = c->start_ns;
    note->duration_ns = c->total_ns;
    note->threshold_ns = loop->agent->settings.config.cumulative_threshold_ns;
    note->open_requests = loop->open_requests;
    note->cause = scale_parts(c, note->parts_ns);
}

/* The parts were summed since the window was last empty; time that has slid
 * out since took its share of each. Returns the largest. */
static uint32_t
scale_parts(const struct lg_cumulative *c, uint64_t parts_ns[LG_CAUSE_COUNT])
{
    uint64_t all = 0;
    uint32_t largest = 0;
    for (uint32_t i = 0; i < LG_CAUSE_COUNT; i++) {
        all += c->parts_ns[i];
        largest = c->parts_ns[i] > c->parts_ns[largest] ? i : largest;
    }
    uint64_t rest = c->total_ns;
    for (uint32_t i = 0; i < LG_CAUSE_COUNT && all != 0; i++) {
        parts_ns[i] = (uint64_t)((double)c->parts_ns[i] / (double)all * (double)c->total_ns);
        rest -= parts_ns[i] < rest ? parts_ns[i] : rest;
    }
    parts_ns[largest] += rest;          /* what rounding left */
    return largest == LG_CAUSE_OTHER ? LG_CAUSE_UNKNOWN : largest;
}

/* NULL when memory is out: then this window is not kept. */
static struct lg_cumulative *
cumulative_new(struct lg_agent *agent)
{
    struct lg_cumulative *c = agent->free_cumulative;
    if (c == NULL) {
        return calloc(1, sizeof(*c));
    }
    agent->free_cumulative = c->next_free;
    lg_cumulative_reset(c);
    c->next_free = NULL;
    return c;
}

void
lg_charge_trim(struct lg_agent *agent)
{
    while (agent->free_cumulative != NULL) {
        struct lg_cumulative *c = agent->free_cumulative;
        agent->free_cumulative = c->next_free;
        free(c);
    }
}
