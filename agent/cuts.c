/*
 * cuts.c - see cuts.h.
 */
#include "cuts.h"

#include <stdlib.h>
#include <string.h>

#include "agent.h"
#include "cumulative.h"
#include "tell.h"

/* One of many short steps, or the share of it that somebody is charged for. */
struct cut {
    uint64_t end_ns;
    uint64_t ns;
    uint64_t parts_ns[LG_CAUSE_COUNT];
};

static uint32_t row_of(int32_t endpoint);
static struct cut own_share(const struct cut *wall);
static void of_request_told(struct lg_loop *loop, struct lg_owner *owner, int32_t endpoint,
                            enum lg_cumulative_result result, const struct cut *own);
static void of_endpoint(struct lg_loop *loop, uint32_t endpoint,
                        const struct lg_cumulative *of_request, const struct cut *own,
                        const struct cut *wall);
static bool is_for_narrower(const struct lg_loop *loop, const struct lg_cumulative *wide,
                            const struct lg_cumulative *narrow, uint64_t ns);
static void of_loop(struct lg_loop *loop, const struct lg_cumulative *of_endpoint,
                    const struct cut *wall);
static void forget_unless_open(struct lg_cumulative *c);
static void count(struct lg_recorder *rec, uint32_t endpoint);
static enum lg_cumulative_result add(struct lg_loop *loop, struct lg_cumulative *c,
                                     uint32_t endpoint, uint32_t request_id, const struct cut *cut);
static void note_window(struct lg_loop *loop, const struct lg_cumulative *c, uint32_t endpoint,
                        uint32_t request_id, bool finished);
static void tell_window(struct lg_loop *loop, struct lg_owner *owner, const struct lg_cumulative *c,
                        int32_t endpoint, uint32_t request_id);
static void describe(const struct lg_loop *loop, const struct lg_cumulative *c, uint32_t endpoint,
                     uint32_t request_id, bool finished, struct lg_note *note);
static uint32_t scale_parts(const struct lg_cumulative *c, uint64_t parts_ns[LG_CAUSE_COUNT]);
static struct lg_cumulative *new_window(struct lg_agent *agent);

/* ---- a step ------------------------------------------------------------ */

void
lg_cuts_step(struct lg_loop *loop, struct lg_owner *owner, int32_t endpoint, uint64_t end_ns,
             uint64_t ns, const uint64_t parts_ns[LG_CAUSE_COUNT])
{
    struct lg_agent *agent = loop->agent;
    if (agent->settings.config.cumulative_threshold_ns == 0) {
        return;
    }
    struct cut wall = {.end_ns = end_ns, .ns = ns};
    memcpy(wall.parts_ns, parts_ns, sizeof(wall.parts_ns));
    struct cut own = own_share(&wall);
    if (own.ns < agent->settings.config.cumulative_min_step_ns) {
        of_loop(loop, NULL, &wall);
        return;
    }
    if (owner->cumulative == NULL && owner->kind != LG_KIND_TASK) {
        owner->cumulative = new_window(agent);
    }
    enum lg_cumulative_result result =
        owner->cumulative == NULL ? LG_CUMULATIVE_BELOW
                                  : add(loop, owner->cumulative, row_of(endpoint), owner->id, &own);
    if (result == LG_CUMULATIVE_OPENED || result == LG_CUMULATIVE_GREW) {
        of_request_told(loop, owner, endpoint, result, &own);
    }
    else if (endpoint >= 0) {
        of_endpoint(loop, (uint32_t)endpoint, owner->cumulative, &own, &wall);
    }
    else {
        owner->unnamed_cuts++;
        owner->unnamed_cut_ns += own.ns;
        lg_cause_add(owner->unnamed_cut_parts_ns, own.parts_ns);
    }
}

/* "(other)" stands for one without a name. */
static uint32_t
row_of(int32_t endpoint)
{
    return endpoint < 0 ? LG_ENDPOINT_OTHER : (uint32_t)endpoint;
}

/* The whole of a step that mostly ran; else what it did itself. */
static struct cut
own_share(const struct cut *wall)
{
    struct cut own = *wall;
    uint64_t ns = lg_cause_own_ns(wall->parts_ns);
    if (ns < wall->ns / 2) {
        own.ns = ns;
        own.parts_ns[LG_CAUSE_GIL] = 0;
        own.parts_ns[LG_CAUSE_SCHEDULER] = 0;
    }
    return own;
}

static void
of_request_told(struct lg_loop *loop, struct lg_owner *owner, int32_t endpoint,
                enum lg_cumulative_result result, const struct cut *own)
{
    struct lg_agent *agent = loop->agent;
    if (result == LG_CUMULATIVE_OPENED) {
        owner->blocks++;
        owner->blocked_ns += owner->cumulative->total_ns;
        tell_window(loop, owner, owner->cumulative, endpoint, owner->id);
        if (endpoint >= 0) {
            count(&agent->rec, (uint32_t)endpoint);
        }
        else {
            owner->unnamed_cumulative++;
        }
    }
    else {
        owner->blocked_ns += own->ns;
    }
    owner->unnamed_cuts = 0;
    owner->unnamed_cut_ns = 0;
    memset(owner->unnamed_cut_parts_ns, 0, sizeof(owner->unnamed_cut_parts_ns));
    if (endpoint >= 0) {
        forget_unless_open(agent->cumulative_of[endpoint]);
    }
    forget_unless_open(loop->cumulative);
}

static void
of_endpoint(struct lg_loop *loop, uint32_t endpoint, const struct lg_cumulative *of_request,
            const struct cut *own, const struct cut *wall)
{
    struct lg_agent *agent = loop->agent;
    struct lg_cumulative **window = &agent->cumulative_of[endpoint];
    if (*window == NULL) {
        *window = new_window(agent);
    }
    bool waits = is_for_narrower(loop, *window, of_request, own->ns);
    enum lg_cumulative_result result =
        *window == NULL || waits ? LG_CUMULATIVE_BELOW : add(loop, *window, endpoint, 0, own);
    if (result == LG_CUMULATIVE_OPENED) {
        tell_window(loop, NULL, *window, (int32_t)endpoint, 0);
        count(&agent->rec, endpoint);
    }
    if (result == LG_CUMULATIVE_OPENED || result == LG_CUMULATIVE_GREW) {
        forget_unless_open(loop->cumulative);
    }
    else {
        of_loop(loop, waits ? of_request : *window, wall);
    }
}

/* It would open now, although most of what is in it was one narrower window's,
 * which opens by itself with the next step or two: once is enough, and there it
 * has a better name. */
static bool
is_for_narrower(const struct lg_loop *loop, const struct lg_cumulative *wide,
                const struct lg_cumulative *narrow, uint64_t ns)
{
    return wide != NULL && narrow != NULL && !wide->open &&
           wide->sum_ns + ns > loop->agent->settings.config.cumulative_threshold_ns &&
           narrow->sum_ns > (wide->sum_ns + ns) / 2;
}

static void
of_loop(struct lg_loop *loop, const struct lg_cumulative *of_endpoint, const struct cut *wall)
{
    if (loop->cumulative == NULL) {
        loop->cumulative = new_window(loop->agent);
    }
    if (loop->cumulative != NULL &&
        !is_for_narrower(loop, loop->cumulative, of_endpoint, wall->ns) &&
        add(loop, loop->cumulative, LG_ENDPOINT_LOOP, 0, wall) == LG_CUMULATIVE_OPENED) {
        tell_window(loop, NULL, loop->cumulative, (int32_t)LG_ENDPOINT_LOOP, 0);
    }
}

/* ---- phases of an owner ------------------------------------------------ */

uint32_t
lg_cuts_named(struct lg_loop *loop, struct lg_owner *owner, uint64_t now_ns)
{
    uint32_t endpoint = (uint32_t)owner->endpoint;
    uint32_t told = owner->unnamed_cumulative;
    for (; owner->unnamed_cumulative > 0; owner->unnamed_cumulative--) {
        count(&owner->agent->rec, endpoint);
    }
    if (owner->unnamed_cuts != 0 && loop != NULL) {
        struct cut cut = {.end_ns = now_ns, .ns = owner->unnamed_cut_ns / owner->unnamed_cuts};
        memcpy(cut.parts_ns, owner->unnamed_cut_parts_ns, sizeof(cut.parts_ns));
        for (uint32_t n = owner->unnamed_cuts; n > 0; n--) {
            of_endpoint(loop, endpoint, owner->cumulative, &cut, &cut);
            memset(cut.parts_ns, 0, sizeof(cut.parts_ns));  /* all of them came with the first */
        }
    }
    memset(owner->unnamed_cut_parts_ns, 0, sizeof(owner->unnamed_cut_parts_ns));
    owner->unnamed_cut_ns = 0;
    owner->unnamed_cuts = 0;
    return told;
}

void
lg_cuts_finished(struct lg_loop *loop, struct lg_owner *owner)
{
    struct lg_cumulative *c = owner->cumulative;
    if (c == NULL) {
        return;
    }
    if (c->open && loop != NULL) {
        note_window(loop, c, row_of(owner->endpoint), owner->id, true);
    }
    c->next_free = owner->agent->free_cumulative;
    owner->agent->free_cumulative = c;
    owner->cumulative = NULL;
}

/* ---- a window ---------------------------------------------------------- */

static void
forget_unless_open(struct lg_cumulative *c)
{
    if (c != NULL && !c->open) {
        lg_cumulative_reset(c);
    }
}

static void
count(struct lg_recorder *rec, uint32_t endpoint)
{
    uint64_t *word = &rec->seg.endpoints[endpoint].cumulative_waited;
    uint64_t v = lg_load_relaxed(word);
    lg_store_relaxed(word, LG_PAIR(LG_LO(v) + 1, LG_HI(v)));
}

/* Adds a step to one window and tells when that makes, or ends, an event. */
static enum lg_cumulative_result
add(struct lg_loop *loop, struct lg_cumulative *c, uint32_t endpoint, uint32_t request_id,
    const struct cut *cut)
{
    const struct lg_config_info *config = &loop->agent->settings.config;
    struct lg_cumulative ended;
    enum lg_cumulative_result result =
        lg_cumulative_add(c, config->cumulative_window_ns, config->cumulative_threshold_ns,
                          cut->end_ns, cut->ns, &ended);
    lg_cause_add(c->parts_ns, cut->parts_ns);
    switch (result) {
    case LG_CUMULATIVE_OPENED:
        c->id = ++loop->agent->next_cumulative_id;
        lg_add_single(&loop->entry->cumulative_events, 1);
        note_window(loop, c, endpoint, request_id, false);
        break;
    case LG_CUMULATIVE_GREW:
        note_window(loop, c, endpoint, request_id, false);
        break;
    case LG_CUMULATIVE_ENDED:
        note_window(loop, &ended, endpoint, request_id, true);
        break;
    case LG_CUMULATIVE_BELOW:
        break;
    }
    return result;
}

static void
note_window(struct lg_loop *loop, const struct lg_cumulative *c, uint32_t endpoint,
            uint32_t request_id, bool finished)
{
    struct lg_note *note = lg_note_begin(&loop->notes);
    if (note == NULL) {
        return;
    }
    describe(loop, c, endpoint, request_id, finished, note);
    lg_note_publish(&loop->notes);
}

/* Once for each window, when it opens. */
static void
tell_window(struct lg_loop *loop, struct lg_owner *owner, const struct lg_cumulative *c,
            int32_t endpoint, uint32_t request_id)
{
    if (lg_load32_relaxed(&loop->agent->is_heard)) {
        struct lg_note note;
        memset(&note, 0, sizeof(note));
        describe(loop, c, row_of(endpoint), request_id, false, &note);
        lg_tell_later(loop, owner, endpoint, &note);
    }
}

static void
describe(const struct lg_loop *loop, const struct lg_cumulative *c, uint32_t endpoint,
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
new_window(struct lg_agent *agent)
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
lg_cuts_trim(struct lg_agent *agent)
{
    while (agent->free_cumulative != NULL) {
        struct lg_cumulative *c = agent->free_cumulative;
        agent->free_cumulative = c->next_free;
        free(c);
    }
}
