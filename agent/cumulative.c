/*
 * cumulative.c - the sliding window.
 */
#include "cumulative.h"

#include <string.h>

static void forget_until(struct lg_cumulative *c, uint64_t bucket);

enum lg_cumulative_result
lg_cumulative_add(struct lg_cumulative *c, uint64_t window_ns, uint64_t limit_ns, uint64_t end_ns,
                  uint64_t ns, struct lg_cumulative *ended)
{
    enum lg_cumulative_result result = LG_CUMULATIVE_BELOW;
    if (c->open) {
        if (end_ns - c->start_ns <= window_ns) {
            c->total_ns += ns;
            c->total_steps++;
            return LG_CUMULATIVE_GREW;
        }
        *ended = *c;
        lg_cumulative_reset(c);
        result = LG_CUMULATIVE_ENDED;
    }
    uint64_t bucket_len = window_ns / LG_CUMULATIVE_BUCKETS;
    uint64_t bucket = end_ns / (bucket_len == 0 ? 1 : bucket_len);
    forget_until(c, bucket);
    c->bucket_ns[bucket % LG_CUMULATIVE_BUCKETS] += ns;
    c->bucket_steps[bucket % LG_CUMULATIVE_BUCKETS]++;
    c->sum_ns += ns;
    c->steps++;
    if (c->sum_ns <= limit_ns || result == LG_CUMULATIVE_ENDED) {
        return result;
    }
    uint64_t oldest = bucket;
    for (uint64_t d = 1; d < LG_CUMULATIVE_BUCKETS && d <= bucket; d++) {
        if (c->bucket_steps[(bucket - d) % LG_CUMULATIVE_BUCKETS] != 0) {
            oldest = bucket - d;
        }
    }
    c->open = true;
    c->start_ns = end_ns - ns;
    if (oldest * bucket_len < c->start_ns) {
        c->start_ns = oldest * bucket_len;
    }
    c->total_ns = c->sum_ns;
    c->total_steps = c->steps;
    return LG_CUMULATIVE_OPENED;
}

void
lg_cumulative_reset(struct lg_cumulative *c)
{
    struct lg_cumulative *next = c->next_free;
    memset(c, 0, sizeof(*c));
    c->next_free = next;
}

static void
forget_until(struct lg_cumulative *c, uint64_t bucket)
{
    if (bucket - c->newest >= LG_CUMULATIVE_BUCKETS) {
        memset(c->bucket_ns, 0, sizeof(c->bucket_ns));
        memset(c->bucket_steps, 0, sizeof(c->bucket_steps));
        c->sum_ns = 0;
        c->steps = 0;
    }
    else {
        for (uint64_t b = c->newest + 1; b <= bucket; b++) {
            c->sum_ns -= c->bucket_ns[b % LG_CUMULATIVE_BUCKETS];
            c->steps -= c->bucket_steps[b % LG_CUMULATIVE_BUCKETS];
            c->bucket_ns[b % LG_CUMULATIVE_BUCKETS] = 0;
            c->bucket_steps[b % LG_CUMULATIVE_BUCKETS] = 0;
        }
    }
    c->newest = bucket;
}
