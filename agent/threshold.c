/*
 * threshold.c - see threshold.h.
 */
#include "threshold.h"

#include <stdlib.h>
#include <string.h>

#include "settings.h"

static uint64_t quantile_us(const struct lg_threshold *t, uint32_t n, double q);
static int by_size(const void *a, const void *b);
static uint64_t clamp(uint64_t ns, uint64_t lo, uint64_t hi);

struct lg_threshold *
lg_threshold_open(const struct lg_settings *settings)
{
    if (settings->config.adaptive == 0) {
        return NULL;
    }
    uint32_t size = settings->calibration_iterations;
    if (settings->config.adaptive == 2 && settings->adaptive_window_size > size) {
        size = settings->adaptive_window_size;
    }
    struct lg_threshold *t = calloc(1, sizeof(*t));
    if (t != NULL) {
        t->us = calloc(size, sizeof(*t->us));
        t->size = size;
        if (t->us == NULL) {
            free(t);
            t = NULL;
        }
    }
    return t;
}

void
lg_threshold_close(struct lg_threshold *t)
{
    if (t != NULL) {
        free(t->us);
        free(t);
    }
}

uint64_t
lg_threshold_decide(struct lg_threshold *t, const struct lg_settings *s, uint64_t now_ns)
{
    uint64_t count = lg_load_relaxed(&t->count);
    uint64_t fallback = s->config.threshold_ns;
    if (t->calibrated_ns == 0) {
        if (count < s->calibration_iterations) {
            return 0;
        }
        uint64_t us = quantile_us(t, s->calibration_iterations, 0.5);
        t->calibrated_ns = clamp((uint64_t)((double)us * 1e3 * s->threshold_multiplier),
                                 s->monitor_interval_ns, fallback);
        t->next_ns = now_ns + s->adaptive_update_interval_ns;
        return t->calibrated_ns;
    }
    if (s->config.adaptive != 2 || now_ns < t->next_ns || count < s->adaptive_min_samples) {
        return 0;
    }
    t->next_ns = now_ns + s->adaptive_update_interval_ns;
    uint32_t n = count < t->size ? (uint32_t)count : t->size;
    uint64_t us = quantile_us(t, n, s->adaptive_percentile);
    return clamp((uint64_t)((double)us * 1e3 * s->threshold_multiplier), t->calibrated_ns,
                 fallback);
}

/* On a sorted copy; 0 when there is no memory for one. */
static uint64_t
quantile_us(const struct lg_threshold *t, uint32_t n, double q)
{
    uint32_t *copy = n == 0 ? NULL : malloc(n * sizeof(*copy));
    if (copy == NULL) {
        return 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        copy[i] = lg_load32_relaxed(&t->us[i]);
    }
    qsort(copy, n, sizeof(*copy), by_size);
    uint32_t rank = (uint32_t)(q * (double)n);
    uint64_t us = copy[rank < n ? rank : n - 1];
    free(copy);
    return us;
}

static int
by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint64_t
clamp(uint64_t ns, uint64_t lo, uint64_t hi)
{
    ns = ns < lo ? lo : ns;
    return ns > hi ? hi : ns;
}
