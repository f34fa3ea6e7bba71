/*
 * model_private.h - what the sources of the model share with each other:
 * model.c (workers, times, sums), blocked.c (the verdict), rows.c (endpoints,
 * windows, detail), events.c (events and stacks). For nobody else.
 */
#ifndef LG_MODEL_PRIVATE_H
#define LG_MODEL_PRIVATE_H

#include "../common/lg_clock.h"
#include "../common/lg_hist.h"
#include "model.h"

struct lg_file_text {                   /* by string id */
    char *short_file;                   /* NULL = not asked yet */
    enum lg_origin origin;
};

struct lg_seen {                        /* last look at a loop: the rule of two reads */
    uint64_t step;
    uint64_t iterations;
    uint64_t awake_since_ns;
    uint64_t at_ns;                     /* real clock, also when tests freeze ours */
};

struct lg_baseline {                    /* 'r': counters from here on */
    uint64_t at_ns;
    uint64_t real_ns;
    struct lg_endpoint *endpoints;
    uint32_t endpoint_count;
    struct lg_hist *hists;
    uint32_t hist_count;
    struct lg_loop_entry loops[LG_VIEW_LOOPS];
};

struct lg_worker_private {
    struct lg_deltas *deltas;
    uint64_t base_ns;                   /* "now" of this worker: of the clock, or of its end */
    int64_t real_offset_ns;             /* real - monotonic */
    bool foreign_time;                  /* another time namespace: only its own clock counts */
    bool was_alive;
    struct lg_file_text *files;
    uint32_t file_count;
    struct lg_stack_view **stacks;      /* by stack id; NULL = not asked yet */
    uint64_t *stack_hash;
    uint32_t stack_count;
    struct lg_seen seen[LG_VIEW_LOOPS];
    uint64_t judged_identity;           /* of the banner */
    uint64_t newest_stall;              /* stalls_head at the last judgement */
    struct lg_baseline *baseline;
    char app[256];
    char server[128];
    char agent[64];
    char cwd[512];
    char prefix[512];
};

struct lg_top_private {
    bool frozen;
    bool unmapped;
    uint64_t frozen_ns;
    uint64_t last_scan_ns;
    bool follow;
    bool follow_all;
    const char *follow_dir;
    const char *follow_name;
    struct lg_row *rows;
    size_t row_room;
    struct lg_hist *hists;              /* two a row: steps, responses */
    size_t hist_room;
    uint64_t *by_worker;
    size_t by_worker_room;
    struct lg_event *events;
    size_t event_room;
    struct lg_detail detail;
    struct lg_weighted_stack *weighted;
    size_t weighted_room;
};

/* Saturating: damaged numbers must not wrap. */
static inline uint64_t
lg_less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

static inline uint64_t
lg_plus(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - 1 - b ? UINT64_MAX - 1 : a + b;
}

static inline uint64_t
lg_us_ns(uint64_t us)
{
    return us > (UINT64_MAX - 1) / 1000 ? UINT64_MAX - 1 : us * 1000;
}

/* model.c */
uint64_t lg_top_clock(const struct lg_top *top);
uint64_t lg_worker_real(const struct lg_worker *w, uint64_t mono_ns);
void lg_quantiles_of(const struct lg_hist *hist, enum lg_quantile_source source,
                     struct lg_quantiles *out);
/* Where a window begins for this worker, by whole cells of `cell_s` seconds. */
uint64_t lg_window_first_cell(const struct lg_worker *w, enum lg_window window, uint64_t cell_s);
uint64_t lg_window_covered(const struct lg_worker *w, enum lg_window window, uint64_t born_ns,
                           uint64_t cell_s);
/* The unfinished block of this worker: live, or at its death. */
bool lg_worker_in_block(const struct lg_worker *w);

/* blocked.c */
void lg_worker_judge(struct lg_top *top, struct lg_worker *w, size_t index);

/* rows.c */
struct lg_key lg_worker_key(struct lg_worker *w, uint32_t endpoint);
const struct lg_endpoint *lg_worker_endpoint(const struct lg_worker *w, uint32_t endpoint);
void lg_worker_waiting_now(struct lg_worker *w, uint32_t blocker, struct lg_waiting *out);

/* events.c */
const struct lg_stack_view *lg_worker_stack(struct lg_worker *w, uint32_t id);
void lg_worker_task(struct lg_worker *w, uint32_t id, char *out, size_t size);
void lg_event_of(struct lg_top *top, size_t worker, const struct lg_stall *stall, bool torn,
                 struct lg_event *out);
void lg_stall_waited(struct lg_worker *w, const struct lg_stall *stall, struct lg_waiting *out);
bool lg_filter_matches(const char *filter, const struct lg_key *key, const char *more);
void lg_worker_forget_stacks(struct lg_worker *w);

#endif
