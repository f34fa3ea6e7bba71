/*
 * lg_hist.c - the reader's arithmetic on log-linear histograms.
 *
 * Private copies only; no lock, no allocation, no shared word.
 */
#include "lg_hist.h"

#include <string.h>

static uint64_t add_saturated(uint64_t a, uint64_t b);
static uint64_t rank_of(double q, uint64_t total);

uint64_t
lg_hist_lo_us(uint32_t index)
{
    if (index < 16) {
        return index;
    }
    /* The inverse of lg_hist_index(): bit 4 of the mantissa is implied. */
    return (uint64_t)(16 + index % 16) << (index / 16 - 1);
}

uint64_t
lg_hist_hi_us(uint32_t index)
{
    return lg_hist_lo_us(index + 1);
}

uint64_t
lg_hist_total(const struct lg_hist *hist)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < LG_HIST_BUCKETS; i++) {
        total = add_saturated(total, hist->bucket[i]);
    }
    return total;
}

void
lg_hist_merge(struct lg_hist *into, const struct lg_hist *from)
{
    for (uint32_t i = 0; i < LG_HIST_BUCKETS; i++) {
        into->bucket[i] = add_saturated(into->bucket[i], from->bucket[i]);
    }
}

bool
lg_hist_subtract(const struct lg_hist *now, const struct lg_hist *then, struct lg_hist *out)
{
    bool whole = true;
    for (uint32_t i = 0; i < LG_HIST_BUCKETS; i++) {
        whole = whole && now->bucket[i] >= then->bucket[i];
    }
    if (!whole) {
        memset(out, 0, sizeof(*out));
        return false;
    }
    for (uint32_t i = 0; i < LG_HIST_BUCKETS; i++) {
        out->bucket[i] = now->bucket[i] - then->bucket[i];
    }
    return true;
}

uint64_t
lg_hist_quantile_us(const struct lg_hist *hist, double q)
{
    uint64_t total = lg_hist_total(hist);
    if (total == 0) {
        return LG_NONE;
    }
    uint64_t rank = rank_of(q, total);
    uint64_t passed = 0;
    for (uint32_t i = 0; i < LG_HIST_BUCKETS; i++) {
        passed = add_saturated(passed, hist->bucket[i]);
        if (passed >= rank) {
            return lg_hist_hi_us(i);
        }
    }
    return lg_hist_hi_us(LG_HIST_BUCKETS - 1);
}

static uint64_t
add_saturated(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* ceil(q * total) within 1 .. total. 0.07 * 100 is 7.000000000000001 in binary
 * and means the seventh value, hence the factor just below one. */
static uint64_t
rank_of(double q, uint64_t total)
{
    double exact = q * (double)total * (1 - 1e-12);
    if (!(exact > 1)) {
        return 1;
    }
    if (exact >= (double)total) {
        return total;
    }
    uint64_t rank = (uint64_t)exact;
    return (double)rank < exact ? rank + 1 : rank;
}
