/*
 * lg_hist.h - log-linear histogram of microseconds in LG_HIST_BUCKETS words.
 *
 * 16 linear buckets of 1 us, then 26 octaves of 16 buckets: 1 us to 1073 s,
 * a bucket is at most 6.25 % wide. Integers only (clz and shift). One writer
 * at a time; a reader works on a private copy, and the difference of two
 * copies is a histogram again. Log-linear buckets as in HdrHistogram.
 */
#ifndef LG_HIST_H
#define LG_HIST_H

#include <stdbool.h>
#include <stdint.h>

#include "lg_atomic.h"
#include "lg_layout.h"

#define LG_HIST_MAX_US ((UINT64_C(1) << 30) - 1)

/* Bucket of `us`; values over LG_HIST_MAX_US fall into the last. */
static inline uint32_t
lg_hist_index(uint64_t us)
{
    if (us < 16) {
        return (uint32_t)us;
    }
    if (us > LG_HIST_MAX_US) {
        return LG_HIST_BUCKETS - 1;
    }
    uint32_t exponent = 63u - (uint32_t)__builtin_clzll(us);
    return 16u * (exponent - 3u) + (uint32_t)((us >> (exponent - 4u)) & 15u);
}

/* Writer only: counts a duration. False when it lay beyond the last bucket. */
static inline bool
lg_hist_add(struct lg_hist *hist, uint64_t ns)
{
    uint64_t us = ns / 1000;
    lg_add_single(&hist->bucket[lg_hist_index(us)], 1);
    return us <= LG_HIST_MAX_US;
}

/* Edges of bucket `index` in us: it holds lo <= value < hi. */
uint64_t lg_hist_lo_us(uint32_t index);
uint64_t lg_hist_hi_us(uint32_t index);

/* On private copies. Sums saturate. */
uint64_t lg_hist_total(const struct lg_hist *hist);
void lg_hist_merge(struct lg_hist *into, const struct lg_hist *from);
/* now - then; false and all zero when a bucket of `now` is below `then`
 * (another instance, or damage). */
bool lg_hist_subtract(const struct lg_hist *now, const struct lg_hist *then, struct lg_hist *out);

/* Upper edge in us of the bucket where fraction `q` (0..1] of the values is
 * reached; LG_NONE when the histogram is empty. Reads high by <= 6.25 %. */
uint64_t lg_hist_quantile_us(const struct lg_hist *hist, double q);

#endif
