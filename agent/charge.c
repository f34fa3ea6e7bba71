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
#include "cuts.h"
#include "slices/slice.h"
#include "task.h"
#include "tell.h"
#include "threshold.h"
#include "waited.h"

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
static void charge_unnamed(struct lg_loop *loop, struct lg_owner *owner, uint64_t now_ns);
static void charge_unnamed_steps(struct lg_recorder *rec, struct lg_owner *owner, uint64_t now_ns);

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
    if (agent->slices != NULL) {
        lg_slice_parts(loop, s->wall_ns, parts);
    }
    charge_counters(loop, owner, endpoint, s, parts[LG_CAUSE_CPU] + parts[LG_CAUSE_GC]);
    add_parts(loop, s->end_ns, parts);
    uint64_t threshold = lg_agent_threshold(agent, loop, endpoint);
    if (s->wall_ns <= threshold) {
        if (loop->threshold != NULL) {
            lg_threshold_add(loop->threshold, s->wall_ns);
        }
        if (s->wall_ns >= agent->settings.config.cumulative_min_step_ns) {
            lg_cuts_step(loop, owner, endpoint, s->end_ns, s->wall_ns, parts);
        }
        return;
    }
    loop->told_in_iteration_ns += s->wall_ns;
    struct blame blame = find_blame(loop, endpoint, cause, parts, s->wall_ns, threshold);
    if (endpoint < 0 && !blame.elsewhere) {
        owner->unnamed_stalls++;
        owner->unnamed_block_ns += s->wall_ns;
        lg_cause_add(owner->unnamed_parts_ns, parts);
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
    lg_waited_begin(loop, owner, blame.endpoint, loop->step_number, s->start_ns, s->end_ns);
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
    if (loop->agent->slices != NULL) {
        lg_slice_parts(loop, wall, parts);
    }
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
    lg_waited_begin(loop, NULL, note->endpoint, loop->edge_ns, loop->edge_ns, now_ns);
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
    lg_waited_iteration(loop);
}

/* ---- requests open ----------------------------------------------------- */

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
    if (loop != NULL) {
        lg_waited_named(loop, owner);
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
    owner->unnamed_stalls += lg_cuts_named(loop, owner, now_ns);
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
        lg_waited_count(loop);
    }
    lg_cuts_finished(loop, owner);
}
