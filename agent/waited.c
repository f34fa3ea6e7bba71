/*
 * waited.c - see waited.h.
 */
#include "waited.h"

#include <string.h>

#include "../common/lg_clock.h"
#include "agent.h"

static void add(struct lg_waited_note *f, uint32_t endpoint, uint64_t ns);
static void end(struct lg_loop *loop);

/* The rest of this iteration and the next one run those who waited. */
void
lg_waited_begin(struct lg_loop *loop, const struct lg_owner *guilty, uint32_t endpoint,
                uint64_t step, uint64_t start_ns, uint64_t end_ns)
{
    struct lg_waiters *w = &loop->waiters;
    if (w->stall_step != 0) {
        end(loop);
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
lg_waited_step(struct lg_loop *loop, struct lg_owner *owner, uint64_t now_ns)
{
    struct lg_waiters *w = &loop->waiters;
    lg_waited_count(loop);
    if (w->stall_step == 0) {
        return;
    }
    if (!loop->has_edges && now_ns - w->end_ns > 100 * LG_NS_PER_MS) {
        end(loop);              /* no iterations are seen: a short while stands for one */
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
    add(f, owner->endpoint < 0 ? LG_ENDPOINT_OTHER : (uint32_t)owner->endpoint, ns);
}

static void
add(struct lg_waited_note *f, uint32_t endpoint, uint64_t ns)
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
void
lg_waited_named(struct lg_loop *loop, const struct lg_owner *owner)
{
    if (owner->waited_step == 0 || loop->waiters.stall_step != owner->waited_step) {
        return;
    }
    struct lg_waited_note *f = &loop->waiters.found;
    for (int i = 0; i < LG_WAITED_ENDPOINTS; i++) {
        if (f->by[i].requests != 0 && f->by[i].endpoint == LG_ENDPOINT_OTHER) {
            f->by[i].requests--;
            f->by[i].ns -= owner->waited_ns;
            add(f, (uint32_t)owner->endpoint, owner->waited_ns);
            break;
        }
    }
}

void
lg_waited_iteration(struct lg_loop *loop)
{
    if (loop->waiters.stall_step != 0 && loop->iteration > loop->waiters.last_iteration) {
        end(loop);
    }
}

/* With or without the GIL: the note goes out, the counters wait for the GIL. */
static void
end(struct lg_loop *loop)
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

void
lg_waited_count(struct lg_loop *loop)
{
    struct lg_waiters *w = &loop->waited_due;
    if (w->stall_step == 0) {
        return;
    }
    if (w->endpoint != LG_ENDPOINT_LOOP) {
        lg_record_waited(&loop->agent->rec, w->endpoint, w->end_ns, w->found.requests,
                         w->found.sum_ns);
    }
    w->stall_step = 0;
}
