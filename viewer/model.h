/*
 * model.h - what the numbers of the watched workers mean: rates, windows,
 * quantiles, "blocked now", post-mortem, events, stacks, merge, sort, filter.
 *
 * No ncurses and no output here. Screen, --once, --json and dump walk the same
 * model, so a number never differs between them. LG_NONE (or a negative rate)
 * means "not known" and is shown as "-" or null, never as 0.
 *
 * One thread. lg_top owns everything that is reached through it. Texts are
 * cleaned for terminals and live as long as their worker; lists that a
 * function hands out live until the next refresh or the next call of it.
 */
#ifndef LG_MODEL_H
#define LG_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "../common/lg_layout.h"
#include "find.h"
#include "format.h"
#include "snapshot.h"

/* ---- what the viewer wants to see -------------------------------------- */

/* X(NAME, text, seconds; 0 = since the worker started) */
#define LG_WINDOWS(X) \
    X(10S, "10s", 10) \
    X(1M, "1m", 60) \
    X(5M, "5m", 300) \
    X(TOTAL, "total", 0)

enum lg_window {
#define LG_X(name, text, seconds) LG_WINDOW_##name,
    LG_WINDOWS(LG_X)
#undef LG_X
        LG_WINDOW_COUNT
};

/* X(NAME, key for --sort, heading, what it is) */
#define LG_SORTS(X) \
    X(BLOCKED, "blocked", "BLOCKED", "time that steps over the threshold took") \
    X(BLOCKS, "blocks", "N>T", "how many steps were over the threshold") \
    X(MAX, "max", "MAX", "longest step") \
    X(P99, "p99", "P99", "99 % of steps were shorter") \
    X(P90, "p90", "P90", "90 % of steps were shorter") \
    X(P50, "p50", "P50", "half of the steps were shorter") \
    X(BUSY, "busy", "BUSY", "time on the loop") \
    X(RATE, "rate", "REQ/S", "finished requests a second") \
    X(OPEN, "open", "OPEN", "requests in progress") \
    X(WAITED, "waited", "WAITED", "requests that waited behind its blocks") \
    X(TOTAL, "total", "N TOTAL", "blocks since the worker started") \
    X(NAME, "name", "ENDPOINT", "name")

enum lg_sort {
#define LG_X(name, key, heading, what) LG_SORT_##name,
    LG_SORTS(LG_X)
#undef LG_X
        LG_SORT_COUNT
};

struct lg_view {                        /* zero: 10 s, by blocked time, all */
    enum lg_window window;
    enum lg_sort sort;
    bool reverse;
    const char *filter;                 /* NULL or ""; '|' joins; no case */
    size_t top;                         /* 0 = all */
    uint64_t min_ns;                    /* events and blocks below are left out */
    bool merge;                         /* rows over all live workers */
    bool hide_dead;
};

const char *lg_window_text(enum lg_window window);
uint64_t lg_window_ns(enum lg_window window);           /* 0 for total */
const char *lg_sort_key(enum lg_sort sort);
const char *lg_sort_heading(enum lg_sort sort);
bool lg_window_from_text(const char *text, enum lg_window *out);
bool lg_sort_from_text(const char *text, enum lg_sort *out);

/* ---- names, stacks ----------------------------------------------------- */

struct lg_key {                         /* an endpoint: equal texts are the same row */
    uint32_t kind;                      /* enum lg_endpoint_kind, or above: "?9" */
    uint32_t method;                    /* enum lg_method */
    const char *name;                   /* route template, task name, function */
};

bool lg_key_equal(const struct lg_key *a, const struct lg_key *b);

struct lg_stack_frame {
    const char *function;
    const char *file;                   /* as the agent stored it */
    const char *short_file;             /* "app/reports.py": cwd, site-packages.. cut */
    uint32_t line;
    enum lg_origin origin;              /* "your code" = LG_ORIGIN_USER */
    bool endpoint;                      /* outermost frame of user code */
};

struct lg_stack_view {                  /* innermost first */
    uint32_t depth;                     /* 0 = no stack */
    bool moving;                        /* the leaf changed between walks */
    bool damaged;                       /* a link in it was not usable */
    struct lg_stack_frame frame[LG_MAX_DEPTH];
};

/* Innermost frame of user code, else the innermost; NULL without frames. */
const struct lg_stack_frame *lg_stack_user_frame(const struct lg_stack_view *stack);

/* ---- numbers ----------------------------------------------------------- */

/* Where quantiles come from. */
enum lg_quantile_source {
    LG_QUANTILE_NONE,                   /* not known: "-" and null */
    LG_QUANTILE_HISTOGRAM,              /* exact for the window: two snapshots */
    LG_QUANTILE_RECORDS,                /* longest step of each request in the window */
    LG_QUANTILE_TOTAL,                  /* since the worker started */
};

struct lg_quantiles {                   /* us; LG_NONE = not known */
    enum lg_quantile_source source;
    uint64_t p50_us;
    uint64_t p90_us;
    uint64_t p99_us;
    uint64_t p999_us;
};

/* An endpoint's numbers in a window. */
struct lg_figures {
    uint64_t covered_ns;                /* what "a second" and shares refer to */
    uint64_t requests;
    uint64_t steps;
    uint64_t busy_ns;
    uint64_t blocked_ns;                /* the block in progress included */
    uint64_t blocks;
    uint64_t max_ns;
    uint64_t waited;                    /* requests that waited behind its blocks */
    double requests_per_s;
    double loop_share;                  /* blocked_ns / covered_ns: %LOOP */
    double busy_share;
    struct lg_quantiles step;           /* time on the loop per step */
    struct lg_quantiles response;       /* with awaits */
};

struct lg_row {
    struct lg_key key;
    struct lg_figures now;              /* in the view's window */
    bool running;                       /* a block of it lasts now: MAX with "*" */
    uint64_t total_blocks;
    uint64_t total_requests;
    uint64_t open;                      /* requests in progress */
    uint64_t threshold_ns;              /* its own, else the loop's */
    uint64_t first_seen_ns;             /* age now; LG_NONE */
    uint64_t last_seen_ns;
    uint64_t last_block_ns;             /* duration of the last block, LG_NONE */
    uint64_t last_block_age_ns;
    const struct lg_stack_frame *worst_frame;   /* of the longest block; NULL */
    const struct lg_stack_frame *last_frame;    /* of the last block; NULL */
    size_t worst_worker;                /* index; the most blocked time */
    const uint64_t *blocked_by_worker;  /* [lg_top.worker_count] ns, LG_NONE */
    bool unclean;                       /* row marked "~" */
    bool unknown;                       /* no history in the file: counts are LG_NONE */
    const struct lg_hist *step_hist;    /* what now.step is made of; NULL */
};

/* ---- a worker ---------------------------------------------------------- */

#define LG_SERIES 60                    /* seconds; the last is now */
#define LG_LONG_SERIES 100

enum lg_worker_state {
    LG_WORKER_LIVE,
    LG_WORKER_STALE,                    /* process there, no heartbeat */
    LG_WORKER_EXITED,                   /* clean end */
    LG_WORKER_DEAD,                     /* killed or crashed: post-mortem */
    LG_WORKER_CUT,                      /* the file became shorter */
    LG_WORKER_OFF,                      /* agent disabled after an internal error */
};

enum lg_banner_kind {
    LG_BANNER_NONE,
    LG_BANNER_BLOCKED,
    LG_BANNER_ENDED,                    /* stays 5 s */
    LG_BANNER_NO_HEARTBEAT,
    LG_BANNER_DIED_BLOCKED,
    LG_BANNER_DIED,                     /* killed, not in a block */
    LG_BANNER_EXITED,
    LG_BANNER_CUT,
};

struct lg_waiting_endpoint {
    struct lg_key key;
    uint64_t requests;
    uint64_t wait_ns;                   /* LG_NONE while it lasts */
};

#define LG_WAITING_MAX 8

struct lg_waiting {
    uint64_t requests;                  /* LG_NONE = not known */
    uint64_t longest_ns;                /* LG_NONE while it lasts */
    uint64_t sum_ns;
    size_t endpoint_count;
    struct lg_waiting_endpoint endpoint[LG_WAITING_MAX];
};

/* A block in progress, or the one in which the worker died. */
struct lg_blocked {
    bool active;
    bool at_death;                      /* for_ns counts to the last heartbeat */
    bool torn;                          /* its line was being written at death */
    uint32_t loop;
    uint32_t kind;                      /* enum lg_stall_kind */
    uint64_t step;
    uint64_t for_ns;
    uint64_t threshold_ns;
    struct lg_key key;
    uint32_t request_id;                /* 0 = none; 8 hex digits on a screen */
    char task[128];                     /* "Task-8123", "" */
    const char *thread;
    uint32_t tid;
    uint32_t cause;                     /* LG_CAUSE_UNKNOWN until the watchdog knows */
    uint64_t parts_ns[LG_CAUSE_COUNT];  /* LG_NONE without a stall */
    const char *call;                   /* "recv fd 11 <- 127.0.0.1:5432" or "" */
    uint64_t call_ns;
    uint64_t samples;
    struct lg_stack_view stack;
    struct lg_stack_view holder_stack;
    struct lg_key holder;               /* name NULL = none */
    struct lg_waiting waiting;
    uint64_t longest_seen_ns;           /* of all blocks of this worker: the bar */
};

struct lg_banner {
    enum lg_banner_kind kind;
    uint64_t ns;                        /* so far; of the ended one; since heartbeat */
    size_t worker;
    uint64_t changed;                   /* goes up when the banner's identity changes */
    char process_state;                 /* 'R' 'S' 'D' 'T' ..., 0 = not known */
    bool alarm;                         /* ns over LG_ALARM_NS */
};

#define LG_ALARM_NS UINT64_C(1000000000)
#define LG_ENDED_NS UINT64_C(5000000000)
#define LG_STALE_NS UINT64_C(2000000000)

struct lg_window_sum {                  /* of all loops of a worker */
    uint64_t covered_ns;
    uint64_t requests;
    uint64_t busy_ns;
    uint64_t blocked_ns;
    uint64_t blocks;
    uint64_t max_lag_ns;
    double requests_per_s;
    double busy_share;                  /* of the busiest loop */
    double blocked_share;
    struct lg_quantiles lag;
};

struct lg_loop_view {
    uint32_t index;
    uint32_t kind;                      /* enum lg_loop_kind */
    bool closed;
    const char *thread;
    uint32_t tid;
    uint64_t lag_now_ns;
    uint64_t heartbeat_age_ns;
    uint64_t threshold_ns;
    uint64_t tasks;
    uint64_t open_requests;
    uint64_t ready_length;
    uint64_t iterations;
    uint64_t steps;
    uint64_t throttled;
    uint64_t gc_pauses;
    uint64_t parts_ns[LG_CAUSE_COUNT];
    uint64_t max_lag_ns;                /* since start */
    uint64_t max_lag_real_ns;           /* when */
    struct lg_window_sum sum[LG_WINDOW_COUNT];
};

struct lg_pool_view {
    bool seen;
    uint64_t limit, busy, waiting, high_water, waiting_high_water, times_full;
    uint64_t submitted, finished;
    uint64_t wait_sum_ns, wait_max_ns, run_sum_ns, run_max_ns;
    uint64_t full_for_ns;               /* LG_NONE = not full */
    struct lg_quantiles wait;           /* since start */
    size_t stuck_count;
    struct {
        uint32_t tid;
        struct lg_key key;
        uint64_t for_ns;
        struct lg_stack_view stack;
    } stuck[LG_STUCK_THREADS];
};

struct lg_feature_view {
    char name[17];
    bool on;
    char why[41];                       /* "" = no reason */
};

/* A line of the events screen. */
struct lg_event {
    size_t worker;
    uint64_t ticket;
    uint64_t real_ns;                   /* when it began */
    uint64_t mono_ns;
    uint64_t duration_ns;
    uint64_t threshold_ns;
    uint32_t kind;                      /* enum lg_stall_kind, or LG_EVENT_MARK */
    uint32_t cause;
    uint32_t flags;                     /* LG_STALL_* */
    bool ongoing;                       /* still lasts, or lasted at death */
    bool torn;
    uint32_t loop;
    uint32_t request_id;
    struct lg_key key;
    const char *mark;                   /* LG_EVENT_MARK: "worker started" ... */
    const struct lg_stack_frame *innermost;     /* NULL */
    const struct lg_stack_frame *user;          /* NULL */
    uint64_t waited_requests;           /* LG_NONE while it lasts */
};
#define LG_EVENT_MARK 0xff

/* All of an event: what its lower pane and JSON show. */
struct lg_event_detail {
    struct lg_event event;
    char task[128];
    const char *thread;
    uint32_t tid;
    uint64_t parts_ns[LG_CAUSE_COUNT];
    const char *call;
    uint64_t call_ns;
    uint64_t samples;
    uint64_t steps;
    uint64_t major_faults;
    struct lg_stack_view stack;
    struct lg_stack_view holder_stack;
    struct lg_key holder;
    struct lg_waiting waited;
};

struct lg_worker_private;

struct lg_worker {
    struct lg_snapshot *snap;           /* for dump; screens do not need it */
    pid_t pid;                          /* as seen from here, else its own number */
    const char *label;                  /* "41207" or the file */
    enum lg_worker_state state;
    bool post_mortem;                   /* EXITED, DEAD, or read from a file of one */
    char process_state;                 /* from /proc; 0 = not known */
    uint32_t slot;
    const char *app;
    const char *server;
    char python[16];                    /* "3.12.7" */
    const char *agent;
    const char *cwd;
    const char *prefix;
    pid_t ppid;
    uint64_t started_real_ns;
    uint64_t up_ns;                     /* until now, or until the end */
    uint64_t heartbeat_age_ns;          /* LG_NONE = no loop yet */
    uint64_t heartbeat_real_ns;
    uint64_t ended_real_ns;             /* post-mortem: last heartbeat */
    char loop_kinds[32];                /* "asyncio", "uvloop", "asyncio/uvloop" */
    uint64_t threshold_ns;              /* in force on its first open loop */

    uint64_t lag_now_ns;                /* worst of its loops */
    bool lag_high;                      /* over the threshold: "!" */
    uint64_t max_lag_ns;                /* since start */
    uint64_t max_lag_real_ns;
    struct lg_window_sum sum[LG_WINDOW_COUNT];
    uint64_t open_requests;
    uint64_t tasks;
    uint64_t lost_events;
    double fill;                        /* fullest table, 0..1: "seg 31%" */
    uint64_t series_lag_ns[LG_SERIES];  /* worst lag by second; LG_NONE = before start */
    uint64_t series_end_real_ns;

    struct lg_loop_view loops[LG_VIEW_LOOPS];
    size_t loop_count;
    struct lg_pool_view pool;
    struct lg_feature_view features[16];
    size_t feature_count;
    bool ended_while_watched;
    struct lg_blocked blocked;          /* active, at_death, or of LG_BANNER_ENDED */
    struct lg_banner banner;
    char note[160];                     /* "no heartbeat 6 s", "exited 14:01:03", "" */
    char message[320];                  /* "2 rows could not be read cleanly this time" */

    struct lg_worker_private *private;
};

const char *lg_worker_state_text(enum lg_worker_state state);  /* "live" ... */

/* What of the segment could not be read: "cut short ...", "damaged ...". False
 * when all was whole. Exit status 0 when the endpoint table is whole, else 5. */
bool lg_worker_problem(const struct lg_worker *w, struct lg_problem *out);

/* ---- everything -------------------------------------------------------- */

struct lg_top {
    struct lg_worker **workers;         /* sorted: as named, else live by pid, then dead */
    size_t worker_count;
    pid_t parent;                       /* common parent, 0 = none */
    struct lg_problems problems;        /* what could not be read */
    uint64_t now_ns;                    /* of the last refresh */
    uint64_t now_real_ns;
    uint64_t ticks;
    uint64_t lost_events;
    struct lg_top_private *private;
};

/* An empty model. Times of tests: LOOPGUARD_TEST_NOW (CLOCK_MONOTONIC ns) in
 * the environment freezes both clocks; the real one follows from the anchors. */
int lg_top_new(struct lg_top **out);
void lg_top_free(struct lg_top *top);

/* Live segments are copied, never mapped (image.h): for guests. Before the
 * first lg_top_add(). */
void lg_top_unmapped(struct lg_top *top);

/* Takes over a source. A second open of the same file is dropped silently. */
int lg_top_add(struct lg_top *top, struct lg_source *source, struct lg_problem *problem);

/* New workers of the same application or name come in by themselves. */
void lg_top_follow(struct lg_top *top, const char *dir, const char *name, bool all);

/* One tick: copies, computes. Also looks for new workers, when told to follow. */
void lg_top_refresh(struct lg_top *top);

/* The fast lane, ten times a second: loops, blocked, banners. True when what
 * a banner says has changed. */
bool lg_top_refresh_banner(struct lg_top *top);

/* Counters shown from here on are differences to now ('r'); `since` 0 ends it. */
void lg_top_zero(struct lg_top *top, bool on);
uint64_t lg_top_zeroed_real_ns(const struct lg_top *top);       /* 0 = not */

/* The worst banner of all workers: blocked longest first. */
const struct lg_banner *lg_top_banner(const struct lg_top *top);

/* Index of `worker` where all are meant: view.merge or LG_ALL_WORKERS. */
#define LG_ALL_WORKERS ((size_t) - 1)

/* Sorted, filtered rows of one worker, or merged over all live ones. */
size_t lg_top_rows(struct lg_top *top, size_t worker, const struct lg_view *view,
                   const struct lg_row **out);

/* Sums over live workers (or the one): line 2 of the workers screen. */
void lg_top_sum(const struct lg_top *top, size_t worker, enum lg_window window,
                struct lg_window_sum *out);

/* Newest first. */
size_t lg_top_events(struct lg_top *top, size_t worker, const struct lg_view *view,
                     const struct lg_event **out);
/* Stalls ever counted, kept, and lost to this viewer. */
void lg_top_event_counts(const struct lg_top *top, size_t worker, uint64_t *seen, uint64_t *kept,
                         uint64_t *lost);
bool lg_top_event_detail(struct lg_top *top, const struct lg_event *event,
                         struct lg_event_detail *out);

/* ---- detail of one endpoint -------------------------------------------- */

struct lg_band {                        /* true bucket edges, us; hi LG_NONE = open */
    uint64_t lo_us, hi_us, count;
};
#define LG_BANDS 32

/* A blocking stack with its weight in the window (from the stalls kept), or in
 * total (from the stack table). */
struct lg_weighted_stack {
    uint64_t total_ns;
    double share;
    uint64_t count;
    uint64_t max_ns;
    uint64_t last_age_ns;
    const struct lg_stack_view *stack;
};

enum lg_stack_order { LG_STACKS_BY_TIME, LG_STACKS_BY_COUNT, LG_STACKS_BY_MAX, LG_STACKS_BY_LAST };

struct lg_detail {
    struct lg_row row;
    /* As enum lg_band_set says; edges are those of the histogram, 1024 us for
     * "1 ms". band_count 0 = not known in this window. */
    struct lg_band band[LG_BANDS];
    size_t band_count;
    enum lg_quantile_source band_source;
    uint64_t series_blocked_ns[LG_LONG_SERIES]; /* by second, last = now; LG_NONE */
    uint64_t series_max_ns[LG_LONG_SERIES];
    size_t series_seconds;              /* how many at the end are known */
    const struct lg_weighted_stack *stacks;
    size_t stack_count;
    struct lg_waiting waited;           /* in the window, of the stalls kept */
    uint64_t parts_ns[LG_CAUSE_COUNT];  /* blocked time by cause, total */
    uint64_t status[4];                 /* 2xx 3xx 4xx 5xx, total */
    uint64_t exceptions, cancelled;
    uint64_t pool_wait_ns, pool_run_ns;
    uint64_t cumulative_events;
    struct lg_event earlier[8];         /* blocks of it, newest first */
    size_t earlier_count;
    char hint[200];                     /* "" or what to do */
};

enum lg_band_set {
    LG_BANDS_MEDIUM,                    /* 12: <1ms 1-2 2-4 .. 512-1s >=1s */
    LG_BANDS_COARSE,                    /* 7: <1ms 1-4 4-16 16-64 64-256 256-1s >=1s */
    LG_BANDS_FINE,                      /* 14: <0.5ms 0.5-1 1-2 .. 512-1s 1-2s >=2s */
};

/* False when no such endpoint is there. */
bool lg_top_detail(struct lg_top *top, size_t worker, const struct lg_view *view,
                   const struct lg_key *key, enum lg_band_set bands, enum lg_stack_order order,
                   const struct lg_detail **out);

/* The same for a row of the last lg_top_rows() with the same view; the rows
 * stay as they are. */
const struct lg_detail *lg_top_row_detail(struct lg_top *top, size_t worker,
                                          const struct lg_view *view, const struct lg_row *row,
                                          enum lg_band_set bands, enum lg_stack_order order);

#endif
