/*
 * deltas.c - the bounded ring of histogram differences; see deltas.h.
 */
#include "deltas.h"

#include <stdlib.h>

#define TRIPLES 65536u                  /* 512 KiB when full, a power of two */
#define TICKS 4096u                     /* five minutes at ten a second */

struct triple {
    uint16_t hist;
    uint16_t bucket;
    uint32_t count;
};

struct tick {
    uint64_t end_ns;
    uint64_t end;                       /* triples ever added, at its end */
};

struct lg_deltas {
    uint64_t start_ns;                  /* everything since then is here */
    uint64_t added;                     /* triples ever */
    uint64_t ticks;                     /* ever */
    struct tick *tick;                  /* [TICKS] */
    struct triple *triple;              /* [TRIPLES] */
};

static void forget_overwritten(struct lg_deltas *deltas);
static uint64_t oldest_tick(const struct lg_deltas *deltas);

struct lg_deltas *
lg_deltas_new(uint64_t start_ns)
{
    struct lg_deltas *deltas = calloc(1, sizeof(*deltas));
    if (deltas == NULL) {
        return NULL;
    }
    deltas->start_ns = start_ns;
    deltas->tick = calloc(TICKS, sizeof(*deltas->tick));
    deltas->triple = calloc(TRIPLES, sizeof(*deltas->triple));
    if (deltas->tick == NULL || deltas->triple == NULL) {
        lg_deltas_free(deltas);
        return NULL;
    }
    return deltas;
}

void
lg_deltas_free(struct lg_deltas *deltas)
{
    if (deltas != NULL) {
        free(deltas->tick);
        free(deltas->triple);
        free(deltas);
    }
}

bool
lg_deltas_add(struct lg_deltas *deltas, uint32_t hist, const struct lg_hist *before,
              const struct lg_hist *now)
{
    bool forward = true;
    for (uint32_t i = 0; i < LG_HIST_BUCKETS; i++) {
        if (now->bucket[i] == before->bucket[i]) {
            continue;
        }
        if (now->bucket[i] < before->bucket[i]) {
            forward = false;
            continue;
        }
        uint64_t more = now->bucket[i] - before->bucket[i];
        deltas->triple[deltas->added++ % TRIPLES] = (struct triple){
            .hist = (uint16_t)hist,
            .bucket = (uint16_t)i,
            .count = more > UINT32_MAX ? UINT32_MAX : (uint32_t)more,
        };
    }
    return forward;
}

void
lg_deltas_tick(struct lg_deltas *deltas, uint64_t now_ns)
{
    if (deltas->ticks >= TICKS) {
        /* The tick that is overwritten now was the oldest that we had. */
        const struct tick *lost = &deltas->tick[deltas->ticks % TICKS];
        deltas->start_ns = lost->end_ns > deltas->start_ns ? lost->end_ns : deltas->start_ns;
    }
    deltas->tick[deltas->ticks++ % TICKS] = (struct tick){.end_ns = now_ns, .end = deltas->added};
    forget_overwritten(deltas);
}

bool
lg_deltas_cover(const struct lg_deltas *deltas, uint64_t since_ns)
{
    return deltas->start_ns <= since_ns;
}

void
lg_deltas_walk(const struct lg_deltas *deltas, uint64_t since_ns,
               void (*take)(void *arg, uint32_t hist, uint32_t bucket, uint64_t count), void *arg)
{
    uint64_t from = deltas->added > TRIPLES ? deltas->added - TRIPLES : 0;
    for (uint64_t i = deltas->ticks; i-- > oldest_tick(deltas);) {
        const struct tick *tick = &deltas->tick[i % TICKS];
        if (tick->end_ns <= since_ns) {
            from = tick->end > from ? tick->end : from;
            break;
        }
    }
    for (uint64_t i = from; i < deltas->added; i++) {
        const struct triple *t = &deltas->triple[i % TRIPLES];
        take(arg, t->hist, t->bucket, t->count);
    }
}

/* A tick whose first triple is gone is not whole: what we have starts at the
 * end of the last such tick. */
static void
forget_overwritten(struct lg_deltas *deltas)
{
    if (deltas->added <= TRIPLES) {
        return;
    }
    uint64_t gone = deltas->added - TRIPLES;
    for (uint64_t i = oldest_tick(deltas); i < deltas->ticks; i++) {
        const struct tick *tick = &deltas->tick[i % TICKS];
        uint64_t begin = i == oldest_tick(deltas) ? 0 : deltas->tick[(i - 1) % TICKS].end;
        if (begin >= gone) {
            break;
        }
        deltas->start_ns = tick->end_ns > deltas->start_ns ? tick->end_ns : deltas->start_ns;
    }
}

static uint64_t
oldest_tick(const struct lg_deltas *deltas)
{
    return deltas->ticks > TICKS ? deltas->ticks - TICKS : 0;
}
