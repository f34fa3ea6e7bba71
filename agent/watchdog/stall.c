/*
 * stall.c - see stall.h.
 */
#include "stall.h"

#include <stdlib.h>
#include <string.h>

#include "../../common/lg_seqlock.h"

/* As many twins as the shared table has entries at its default size: an older
 * stall's slot has been used again. */
#define TWINS 512u
#define SEARCHED 128u                   /* a stall is closed long before so many came after */

struct lg_stalls {
    struct lg_recorder *rec;
    uint64_t head;                      /* next ticket */
    struct lg_stall_state twin[TWINS];
};


struct lg_stalls *
lg_stalls_new(struct lg_recorder *rec)
{
    struct lg_stalls *stalls = calloc(1, sizeof(*stalls));
    if (stalls != NULL) {
        stalls->rec = rec;
    }
    return stalls;
}

void
lg_stalls_free(struct lg_stalls *stalls)
{
    free(stalls);
}

struct lg_stall_state *
lg_stall_new(struct lg_stalls *stalls, const struct lg_stall_key *key)
{
    uint64_t ticket = stalls->head++;
    struct lg_stall_state *state = &stalls->twin[ticket % TWINS];
    memset(state, 0, sizeof(*state));
    state->key = *key;
    state->ticket = ticket;
    state->ongoing = true;
    state->cause = LG_CAUSE_UNKNOWN;
    lg_add_single(&stalls->rec->seg.self->stalls, 1);
    return state;
}

struct lg_stall_state *
lg_stall_find(struct lg_stalls *stalls, const struct lg_stall_key *key)
{
    for (uint64_t back = 1; back <= SEARCHED && back <= stalls->head; back++) {
        struct lg_stall_state *state = &stalls->twin[(stalls->head - back) % TWINS];
        if (lg_stall_same(&state->key, key)) {
            return state;
        }
    }
    return NULL;
}

void
lg_stalls_rename(struct lg_stalls *stalls, uint32_t loop, uint32_t request_id, uint32_t endpoint)
{
    for (uint64_t back = 1; back <= SEARCHED && back <= stalls->head; back++) {
        struct lg_stall_state *state = &stalls->twin[(stalls->head - back) % TWINS];
        if (state->request_id == request_id && state->key.loop == loop &&
            state->endpoint == LG_ENDPOINT_OTHER) {
            state->endpoint = endpoint;
            lg_stall_write(stalls, state);
        }
    }
}

void
lg_stalls_ongoing(struct lg_stalls *stalls, uint32_t loop,
                  void (*each)(void *context, struct lg_stall_state *state), void *context)
{
    for (uint64_t back = 1; back <= SEARCHED && back <= stalls->head; back++) {
        struct lg_stall_state *state = &stalls->twin[(stalls->head - back) % TWINS];
        if (state->ongoing && state->key.loop == loop) {
            each(context, state);
        }
    }
}

bool
lg_stall_same(const struct lg_stall_key *a, const struct lg_stall_key *b)
{
    return a->loop == b->loop && a->kind == b->kind && a->gap == b->gap && a->step == b->step;
}

void
lg_stall_write(struct lg_stalls *stalls, const struct lg_stall_state *state)
{
    struct lg_segment *seg = &stalls->rec->seg;
    struct lg_stall *s = &seg->stalls[state->ticket % seg->stall_count];
    uint32_t flags = state->flags | (state->ongoing ? LG_STALL_ONGOING : 0);
    lg_seq_begin(&s->seq);
    lg_store_relaxed(&s->ticket, state->ticket + 1);
    lg_store_relaxed(&s->info,
                     LG_STALL_INFO(state->key.kind, state->cause, flags, state->key.loop));
    lg_store_relaxed(&s->step, state->key.step);
    lg_store_relaxed(&s->start_ns, state->start_ns);
    lg_store_relaxed(&s->duration_ns, state->duration_ns);
    lg_store_relaxed(&s->threshold_ns, state->threshold_ns);
    lg_store_relaxed(&s->endpoint_holder, LG_PAIR(state->endpoint, state->holder_endpoint));
    lg_store_relaxed(&s->request_task, LG_PAIR(state->request_id, state->task));
    for (int i = 0; i < LG_CAUSE_COUNT; i++) {
        lg_store_relaxed(&s->parts_ns[i], state->parts_ns[i]);
    }
    lg_store_relaxed(&s->call_thread, LG_PAIR(state->call, state->thread_name));
    lg_store_relaxed(&s->stack_holder_stack, LG_PAIR(state->stack, state->holder_stack));
    lg_store_relaxed(&s->samples_tid, LG_PAIR(state->samples, state->tid));
    lg_store_relaxed(&s->waiting_open, LG_PAIR(state->waiting, 0));
    lg_store_relaxed(&s->waited_requests, state->waited.requests);
    lg_store_relaxed(&s->waited_longest_ns, state->waited.longest_ns);
    lg_store_relaxed(&s->waited_sum_ns, state->waited.sum_ns);
    for (int i = 0; i < LG_WAITED_ENDPOINTS; i++) {
        lg_store_relaxed(&s->waited[i].endpoint_count,
                         LG_PAIR(state->waited.by[i].endpoint, state->waited.by[i].requests));
        lg_store_relaxed(&s->waited[i].ns, state->waited.by[i].ns);
    }
    lg_store_relaxed(&s->call_ns, state->call_ns);
    lg_store_relaxed(&s->major_faults, state->major_faults);
    lg_store_relaxed(&s->steps, state->steps);
    lg_seq_end(&s->seq);
    /* Pairs with the reader's acquire load: a ticket below it has its entry. */
    if (state->ticket + 1 > lg_load_relaxed(&seg->tables->stalls_head)) {
        lg_store_release(&seg->tables->stalls_head, state->ticket + 1);
    }
}
