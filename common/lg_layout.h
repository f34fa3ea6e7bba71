/*
 * lg_layout.h - every byte that the agent and its readers share.
 *
 * One file in a tmpfs per worker. The agent writes it, readers map it
 * PROT_READ. Fixed-width integers only, natural alignment, explicit padding;
 * sizes and offsets are pinned below and by the golden layout test. Changing a
 * struct raises LG_ABI_MINOR (appended, or taken from reserved bytes) or
 * LG_ABI_MAJOR (anything else).
 *
 * Words in shared memory are touched through lg_atomic.h only; a reader works
 * on private copies of the same types. Times are CLOCK_MONOTONIC nanoseconds
 * unless the name says otherwise. Reserved bytes are written 0 and ignored.
 *
 * The rule of every table: append, publish, never move, never free. Full means
 * counted in SELF and slot 0 used instead.
 */
#ifndef LG_LAYOUT_H
#define LG_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#define LG_ABI_MAJOR 1
#define LG_ABI_MINOR 0
#define LG_MAGIC "LGUARD\x1a\n"         /* 8 bytes; stored last, as one word */
#define LG_ENDIAN_TAG UINT32_C(0x01020304)
#define LG_HEADER_PAGE 4096             /* the immutable page: header, PROC, CONFIG */
#define LG_MAX_SECTIONS 32
#define LG_MAX_SEGMENT_BYTES (UINT64_C(64) << 20)
#define LG_SEGMENT_PREFIX "loopguard."  /* loopguard.<pid>.<start ticks>[.1-7] */
#define LG_OFF_MEMFD_NAME "loopguard.off"
#define LG_NONE UINT64_MAX              /* a number that is not known */

/* ---- header ------------------------------------------------------------ */

/* Values of lg_header.state. */
enum lg_segment_state {
    LG_STATE_INITIALISING = 0,
    LG_STATE_RUNNING = 1,
    LG_STATE_EXITING = 2,
    LG_STATE_EXITED = 3,
    LG_STATE_OFF = 4,                   /* disabled; PROC.off_reason says why */
};

/* The first 64 bytes are frozen for all layout versions. */
struct lg_header {
    uint64_t magic;                     /* LG_MAGIC as bytes; release, last */
    uint32_t endian_tag;
    uint16_t abi_major;
    uint16_t abi_minor;
    uint32_t header_size;               /* this struct and the section table */
    uint32_t section_count;
    uint64_t segment_size;
    uint64_t incompatible_flags;        /* an unknown bit: refuse */
    uint64_t compatible_flags;          /* an unknown bit: ignore */
    uint64_t nonce;                     /* random per segment */
    uint32_t crc32c;                    /* of bytes [64, LG_HEADER_PAGE) */
    uint32_t state;                     /* enum lg_segment_state, release */
};

struct lg_section {
    uint32_t kind;                      /* LG_SEC_* */
    uint16_t version;
    uint16_t flags;
    uint64_t offset;                    /* multiple of 64 */
    uint64_t length;                    /* >= stride * count */
    uint32_t stride;
    uint32_t count;
    uint64_t reserved;
};

/* X(NAME, number, struct of one element, default count, what it is).
 * A number is never reused. Ring bytes have two sections: heads and slots. */
#define LG_SECTIONS(X) \
    X(PROC, 1, struct lg_proc_info, 1, "which process, immutable") \
    X(CONFIG, 2, struct lg_config_info, 1, "options in force at start, immutable") \
    X(ANCHOR, 3, struct lg_anchor, 1, "pairs of clocks, once a second") \
    X(SELF, 4, struct lg_self, 1, "the agent's counters of itself") \
    X(FEATURES, 5, struct lg_feature, 16, "what is on, what is off, why") \
    X(TABLES, 6, struct lg_tables, 1, "how much of each table is used") \
    X(STRINGS, 7, uint8_t, 65536, "names, append-only") \
    X(ENDPOINTS, 8, struct lg_endpoint, 256, "cumulative counters by endpoint") \
    X(HISTS, 9, struct lg_hist, 521, "response, on-loop; lag; pool wait") \
    X(LOOPS, 10, struct lg_loop_entry, 8, "each event loop, its present step") \
    X(ENDPOINT_HISTORY, 11, struct lg_cell, 24576, "96 cells an endpoint") \
    X(LOOP_HISTORY, 12, struct lg_loop_cell, 2560, "320 one-second cells a loop") \
    X(STALLS, 13, struct lg_stall, 512, "every block: parts, cause, stack") \
    X(POOL, 14, struct lg_pool, 1, "the thread pool") \
    X(WRITERS, 15, struct lg_writer, 8, "who writes which ring") \
    X(RING_HEADS, 16, struct lg_ring, 8, "heads of the rings") \
    X(RING_SLOTS, 17, struct lg_slot, 6656, "slots of the rings, in order") \
    X(STACKS, 18, struct lg_stack, 256, "stacks by endpoint, counted") \
    X(FRAMES, 19, struct lg_frame, 4096, "frames, linked inner to outer")

enum lg_section_kind {
#define LG_X(name, number, type, count, what) LG_SEC_##name = number,
    LG_SECTIONS(LG_X)
#undef LG_X
};

/* PROC: written before the magic, never changed. Texts are NUL-terminated. */
struct lg_proc_info {
    uint32_t pid;                       /* as the process sees itself */
    uint32_t ppid;
    uint32_t uid;
    uint32_t gid;
    uint64_t start_ticks;               /* field 22 of /proc/self/stat */
    uint8_t boot_id[16];
    uint64_t ns_pid;                    /* inode numbers of the namespaces */
    uint64_t ns_mnt;
    uint64_t ns_time;
    uint16_t pointer_size;
    uint16_t free_threaded;
    uint32_t python_version_hex;
    uint32_t worker_slot;               /* lowest not held by a live worker of the app */
    uint32_t clock_ticks_per_s;
    uint64_t start_mono_ns;             /* start anchor: three clocks together */
    uint64_t start_real_ns;
    uint64_t start_boot_ns;
    uint64_t start_uncertainty_ns;
    char agent_version[32];
    char app[128];                      /* app_name, else server + application */
    char server[64];                    /* "uvicorn", "gunicorn", ... or "" */
    char off_reason[128];               /* only with LG_STATE_OFF */
    char exe[256];
    char argv[256];                     /* joined by spaces, cut */
    char cwd[256];
    char prefix[256];                   /* sys.prefix */
    uint64_t reserved[6];
};

/* CONFIG: immutable. Thresholds in force stand in LOOPS and ENDPOINTS. */
struct lg_config_info {
    uint64_t threshold_ns;              /* fallback_threshold_ms */
    uint64_t iteration_threshold_ns;
    uint64_t cumulative_threshold_ns;   /* 0 = off */
    uint64_t cumulative_window_ns;
    uint64_t cumulative_min_step_ns;
    uint64_t watchdog_interval_ns;
    uint32_t stack_depth;
    uint32_t max_endpoints;
    uint32_t keep_segment;              /* 0 never, 1 crash, 2 always */
    uint32_t segment_mode;
    uint32_t hooks;                     /* 0 off, 1 auto */
    uint32_t task_factory;
    uint32_t adaptive;                  /* 0 fixed, 1 calibrated, 2 adaptive */
    uint32_t reserved0;
    uint64_t reserved[6];
};

/* ANCHOR, by the watchdog, seqlock (lg_seqlock.h). */
struct lg_anchor {
    uint64_t seq;
    uint64_t mono_ns;
    uint64_t real_ns;
    uint64_t boot_ns;
    uint64_t uncertainty_ns;
    uint64_t clock_steps;               /* jumps of real - mono over 50 ms */
    uint64_t reserved[2];
};

/* SELF: one word each, one writer each. X(field, what). */
#define LG_SELF_COUNTERS(X) \
    X(requests, "REQUEST records written") \
    X(lag_samples, "LAG records written") \
    X(stalls, "stalls opened") \
    X(stacks, "stacks taken") \
    X(stacks_rejected, "stack walks that could not be proved whole") \
    X(gc_pauses, "GC_PAUSE records written") \
    X(lifecycle, "LIFECYCLE records written") \
    X(endpoint_overflow, "requests counted under (other): table full") \
    X(string_overflow, "names that found no place") \
    X(string_truncated, "names cut to fit") \
    X(stack_overflow, "stacks counted under (other stacks): table full") \
    X(frame_overflow, "frames that found no place") \
    X(hist_saturated, "values beyond the last bucket") \
    X(ring_unavailable, "records without a ring") \
    X(loop_overflow, "event loops that found no place") \
    X(intern_busy, "names left out because the table was in use") \
    X(watchdog_ticks, "rounds of the watchdog") \
    X(watchdog_misses, "rounds that came more than one interval late") \
    X(watchdog_cpu_ns, "CPU time of the watchdog thread") \
    X(stall_collisions, "stalls closed by the watchdog for the loop thread") \
    X(errors, "internal errors; the feature's reason says more")

struct lg_self {
#define LG_X(field, what) uint64_t field;
    LG_SELF_COUNTERS(LG_X)
#undef LG_X
    uint64_t reserved[11];
};

enum lg_feature_state { LG_FEATURE_UNUSED = 0, LG_FEATURE_ON = 1, LG_FEATURE_OFF = 2 };

/* FEATURES: reason is written before state (release). */
struct lg_feature {
    char name[16];
    uint32_t state;
    uint32_t reserved;
    char reason[40];
};

/* TABLES: bytes or entries in use; release after the entry itself. */
struct lg_tables {
    uint64_t strings_used;              /* bytes */
    uint64_t endpoints_used;            /* entries, slot 0 included */
    uint64_t stacks_used;
    uint64_t frames_used;
    uint64_t stalls_head;               /* tickets given out; slot = ticket % count */
    uint64_t loops_used;
    uint64_t reserved[2];
};

/* ---- strings ----------------------------------------------------------- */

/* An entry: u16 length, the bytes, NUL, padded to 8. Its id is offset / 8.
 * Id 0 is the empty string. Longer names are cut at LG_MAX_STRING. */
#define LG_MAX_STRING 511

/* ---- endpoints --------------------------------------------------------- */

/* X(NAME, number, text). Texts are part of the JSON contract. */
#define LG_ENDPOINT_KINDS(X) \
    X(REQUEST, 0, "request") \
    X(WEBSOCKET, 1, "websocket") \
    X(LIFESPAN, 2, "lifespan") \
    X(BACKGROUND, 3, "background") \
    X(TASK, 4, "task") \
    X(CALLBACK, 5, "callback") \
    X(LOOP, 6, "loop")

enum lg_endpoint_kind {
#define LG_X(name, number, text) LG_KIND_##name = number,
    LG_ENDPOINT_KINDS(LG_X)
#undef LG_X
};

#define LG_METHODS(X) \
    X(NONE, 0, "") \
    X(GET, 1, "GET") \
    X(POST, 2, "POST") \
    X(PUT, 3, "PUT") \
    X(PATCH, 4, "PATCH") \
    X(DELETE, 5, "DELETE") \
    X(HEAD, 6, "HEAD") \
    X(OPTIONS, 7, "OPTIONS") \
    X(TRACE, 8, "TRACE") \
    X(CONNECT, 9, "CONNECT") \
    X(OTHER, 10, "OTHER") \
    X(WS, 11, "WS")

enum lg_method {
#define LG_X(name, number, text) LG_METHOD_##name = number,
    LG_METHODS(LG_X)
#undef LG_X
};

/* What time on the loop went to. The parts of a stall sum to its duration. */
#define LG_CAUSES(X) \
    X(CPU, 0, "cpu") \
    X(IO, 1, "io") \
    X(LOCK, 2, "lock") \
    X(GIL, 3, "gil") \
    X(GC, 4, "gc") \
    X(SCHEDULER, 5, "scheduler") \
    X(DISK, 6, "disk") \
    X(PAGE_FAULT, 7, "page_fault") \
    X(OTHER, 8, "other")

enum lg_cause {
#define LG_X(name, number, text) LG_CAUSE_##name = number,
    LG_CAUSES(LG_X)
#undef LG_X
        LG_CAUSE_COUNT = 9,
    LG_CAUSE_UNKNOWN = 255,             /* a verdict only, never a part */
};

/* lg_endpoint.key: name id | kind << 32 | method << 40. 0 = free slot. */
#define LG_ENDPOINT_KEY(name_id, kind, method) \
    ((uint64_t)(uint32_t)(name_id) | (uint64_t)(kind) << 32 | (uint64_t)(method) << 40)
#define LG_KEY_NAME(key) ((uint32_t)(key))
#define LG_KEY_KIND(key) ((uint32_t)((key) >> 32) & 0xff)
#define LG_KEY_METHOD(key) ((uint32_t)((key) >> 40) & 0xff)

/* Two 32-bit numbers of one writer in one word. */
#define LG_PAIR(lo, hi) ((uint64_t)(uint32_t)(lo) | (uint64_t)(uint32_t)(hi) << 32)
#define LG_LO(word) ((uint32_t)(word))
#define LG_HI(word) ((uint32_t)((word) >> 32))

/* Slot 0 is "(other)". Written by whoever holds the GIL. `requests` is stored
 * last (release) so that a reader who loads it first sees at least its sums. */
struct lg_endpoint {
    uint64_t key;                       /* published last, release */
    uint64_t in_flight_threshold_us;    /* LG_PAIR(in flight, own threshold us or 0) */
    uint64_t requests;                  /* finished */
    uint64_t status_2xx;
    uint64_t status_3xx;
    uint64_t status_4xx;
    uint64_t status_5xx;
    uint64_t exceptions;                /* left the application */
    uint64_t cancelled;
    uint64_t steps;
    uint64_t response_sum_ns;
    uint64_t response_max_ns;
    uint64_t on_loop_sum_ns;
    uint64_t step_max_ns;
    uint64_t cpu_ns; /* of steps over 1 ms, and the wall of shorter ones less their calls */
    uint64_t blocked_ns; /* whole duration of steps over the threshold */
    uint64_t blocks;
    uint64_t blocked_by_cause_ns[LG_CAUSE_COUNT];
    uint64_t cumulative_waited; /* LG_PAIR(cumulative events, requests that waited behind it) */
    uint64_t pool_wait_ns;
    uint64_t pool_run_ns;
    uint64_t waited_ns; /* waiting that this endpoint's blocks caused */
    uint64_t first_seen_ns;
    uint64_t last_seen_ns;
};

/* ---- histograms -------------------------------------------------------- */

/* Microseconds: 16 linear buckets, then 26 octaves of 16; see lg_hist.h. */
#define LG_HIST_BUCKETS 432

struct lg_hist {
    uint64_t bucket[LG_HIST_BUCKETS];
};

/* Index into HISTS. */
#define LG_HIST_RESPONSE(endpoint) ((uint32_t)(endpoint) * 2)
#define LG_HIST_ON_LOOP(endpoint) ((uint32_t)(endpoint) * 2 + 1)
#define LG_HIST_LAG(endpoints, loop) ((uint32_t)(endpoints) * 2 + (uint32_t)(loop))
#define LG_HIST_POOL_WAIT(endpoints, loops) ((uint32_t)(endpoints) * 2 + (uint32_t)(loops))

/* ---- loops ------------------------------------------------------------- */

enum lg_loop_state {
    LG_LOOP_FREE = 0,
    LG_LOOP_IDLE = 1, /* no tracked step runs (poll, or untracked callbacks) */
    LG_LOOP_STEP = 2, /* a step of `endpoint` runs */
    LG_LOOP_CLOSED = 3,
};
/* With LG_LOOP_STEP: the response has left, what runs is the background task
 * of `endpoint`. */
#define LG_LOOP_AFTER_RESPONSE UINT64_C(0x100)
#define LG_LOOP_STATE(word) ((word) & UINT64_C(0xff))

enum lg_loop_kind { LG_LOOP_ASYNCIO = 0, LG_LOOP_UVLOOP = 1, LG_LOOP_OTHER = 2 };

/* lg_loop_entry.task_name_id with this bit: the rest is N of "Task-N". */
#define LG_TASK_NUMBER_BIT UINT32_C(0x80000000)

struct lg_loop_entry {
    /* Line A, seqlock, by the loop thread at each switch of steps. */
    uint64_t seq;
    uint64_t state; /* enum lg_loop_state, LG_LOOP_AFTER_RESPONSE */
    uint64_t step; /* number of the step, from 1 */
    uint64_t step_start_ns;
    uint64_t endpoint_task; /* LG_PAIR(endpoint, task name id) */
    uint64_t request_tid; /* LG_PAIR(request id, native thread id) */
    uint64_t reserved_a[2];
    /* Line B, by the loop thread, relaxed. */
    uint64_t iterations;
    uint64_t steps;
    uint64_t awake_since_ns; /* poll returned; 0 = in poll */
    uint64_t poll_since_ns; /* poll entered, last time */
    uint64_t last_lag_ns;
    uint64_t max_lag_ns;
    uint64_t max_lag_at_ns;
    uint64_t sum_lag_ns; /* = busy time */
    /* Line C, by the watchdog. */
    uint64_t heartbeat_ns; /* the time base after death */
    uint64_t stall_ticket; /* 1 + ticket of the stall in progress, 0 = none */
    uint64_t stall_since_ns;
    uint64_t stall_step;
    uint64_t samples;
    uint64_t cpu_now_ns; /* thread CPU clock at the heartbeat */
    uint64_t reserved_c[2];
    /* Line D, under the GIL. */
    uint64_t tasks; /* LG_NONE = not known */
    uint64_t open_requests;
    uint64_t threshold_ns; /* in force */
    uint64_t ready_length; /* LG_NONE on uvloop */
    uint64_t blocked_ns;
    uint64_t blocks;
    uint64_t requests;
    uint64_t cumulative_events;
    /* Line E: sums by cause of all steps over 1 ms and all iterations over it. */
    uint64_t parts_ns[LG_CAUSE_COUNT];
    uint64_t gc_pauses;
    uint64_t created_ns;
    uint64_t closed_ns; /* 0 = open */
    uint64_t kind_thread_name; /* LG_PAIR(enum lg_loop_kind, thread name id) */
    uint64_t throttled; /* cgroup periods throttled since created */
    uint64_t reserved[18];
};

/* ---- history ----------------------------------------------------------- */

/* Per endpoint: LG_CELLS_1S one-second cells, then LG_CELLS_10S of ten
 * seconds. A cell belongs to the second (or ten) it names: mono seconds, or
 * mono seconds / 10; another number there means the cell is stale = zero. */
#define LG_CELLS_1S 64
#define LG_CELLS_10S 32
#define LG_CELLS (LG_CELLS_1S + LG_CELLS_10S)
#define LG_LOOP_CELLS 320

/* Four words of LG_PAIR(lo, hi); counts saturate. */
struct lg_cell {
    uint64_t second_requests; /* second, requests finished */
    uint64_t steps_busy_us; /* steps, time on the loop */
    uint64_t blocked_us_blocks; /* whole blocks that ended here */
    uint64_t max_step_us_waited; /* longest step, requests that waited */
};

struct lg_loop_cell {
    uint64_t second_iterations;
    uint64_t busy_us_max_lag_us;
    uint64_t blocked_us_blocks;
    uint64_t requests_open; /* finished; open at the end */
    uint64_t cpu_us_gil_us;
    uint64_t io_us_gc_us; /* io, disk and lock together; gc */
    uint64_t reserved[2];
};

/* ---- stalls ------------------------------------------------------------ */

#define LG_STALL_KINDS(X) \
    X(STEP, 0, "step") \
    X(ITERATION, 1, "iteration") \
    X(CUMULATIVE, 2, "cumulative") \
    X(CALL, 3, "call")

enum lg_stall_kind {
#define LG_X(name, number, text) LG_STALL_##name = number,
    LG_STALL_KINDS(LG_X)
#undef LG_X
};

#define LG_STALL_ONGOING 1u /* duration is "so far" */
#define LG_STALL_MOVING 2u /* the stack's leaf changed between walks */
#define LG_STALL_THROTTLED 4u /* the cgroup was throttled meanwhile */
#define LG_STALL_WATCHED 8u /* the watchdog saw it while it lasted */

#define LG_WAITED_ENDPOINTS 4

/* lg_stall.info: kind | cause << 8 | flags << 16 | loop << 32. */
#define LG_STALL_INFO(kind, cause, flags, loop) \
    ((uint64_t)(kind) | (uint64_t)(cause) << 8 | (uint64_t)(flags) << 16 | (uint64_t)(loop) << 32)
#define LG_INFO_KIND(info) ((uint32_t)(info) & 0xff)
#define LG_INFO_CAUSE(info) ((uint32_t)((info) >> 8) & 0xff)
#define LG_INFO_FLAGS(info) ((uint32_t)((info) >> 16) & 0xffff)
#define LG_INFO_LOOP(info) ((uint32_t)((info) >> 32))

/* One seqlock each. Filled by the watchdog while the stall lasts, closed by
 * the loop thread with exact numbers. */
struct lg_stall {
    uint64_t seq;
    uint64_t ticket; /* 1 + ticket; 0 = never used */
    uint64_t info;
    uint64_t step; /* step or iteration number */
    uint64_t start_ns;
    uint64_t duration_ns;
    uint64_t threshold_ns;
    uint64_t endpoint_holder; /* LG_PAIR(endpoint, holder's endpoint) */
    uint64_t request_task; /* LG_PAIR(request id, task name id) */
    uint64_t parts_ns[LG_CAUSE_COUNT];
    uint64_t call_thread; /* LG_PAIR(call text id, thread name id) */
    uint64_t stack_holder_stack; /* LG_PAIR(stack id, holder's stack id) */
    uint64_t samples_tid; /* LG_PAIR(samples, native thread id) */
    uint64_t waiting_open; /* LG_PAIR(open requests at its start, 0) */
    uint64_t waited_requests;
    uint64_t waited_longest_ns;
    uint64_t waited_sum_ns;
    struct {
        uint64_t endpoint_count; /* LG_PAIR(endpoint, requests) */
        uint64_t ns;
    } waited[LG_WAITED_ENDPOINTS];
    uint64_t call_ns; /* the one longest blocking call in it */
    uint64_t major_faults;
    uint64_t steps; /* cumulative, iteration: steps in it */
    uint64_t reserved[28];
};

/* ---- thread pool ------------------------------------------------------- */

#define LG_STUCK_THREADS 8

struct lg_pool {
    uint64_t limit; /* 0 = no pool seen yet */
    uint64_t busy;
    uint64_t waiting;
    uint64_t high_water;
    uint64_t times_full;
    uint64_t submitted;
    uint64_t finished;
    uint64_t wait_sum_ns;
    uint64_t wait_max_ns;
    uint64_t run_sum_ns;
    uint64_t run_max_ns;
    uint64_t waiting_high_water;
    uint64_t full_since_ns; /* 0 = not full */
    uint64_t reserved[3];
    struct {
        uint64_t tid_endpoint; /* LG_PAIR(native tid, endpoint); 0 = none */
        uint64_t since_ns;
        uint64_t stack; /* stack id */
        uint64_t reserved;
    } stuck[LG_STUCK_THREADS];
    uint64_t reserved2[16];
};

/* ---- rings ------------------------------------------------------------- */

#define LG_RINGS 8

enum lg_ring_class { LG_RING_FREE = 0, LG_RING_BULK = 1, LG_RING_RARE = 2 };

/* Ring 0 is bulk and ring 1 rare, both written under the GIL; ring 2 is the
 * watchdog's own. Defaults for the number of slots; RING_HEADS has the real. */
enum lg_ring_index { LG_RING_REQUESTS = 0, LG_RING_EVENTS = 1, LG_RING_WATCHDOG = 2 };
#define LG_RING_SLOTS_REQUESTS 4096
#define LG_RING_SLOTS_EVENTS 1024
#define LG_RING_SLOTS_REST 256

struct lg_ring {
    uint64_t head; /* records written; release */
    uint64_t first; /* first ticket that ever was */
    uint64_t capacity; /* slots, a power of two */
    uint64_t first_slot; /* index into RING_SLOTS */
    uint64_t ring_class;
    uint64_t writer; /* index into WRITERS */
    uint64_t reserved[10];
};

/* X(NAME, number, text). A number is never reused. Payload words p0..p4:
 * REQUEST    duration ns, on-loop ns, longest step ns,
 *            LG_PAIR(request id, status | method << 16 | LG_REQ_* << 24), pool wait ns
 * LAG        longest lag of the last second ns, iterations in it, ready length
 *            or LG_NONE, busy ns, loop
 * BLOCK_BEGIN  stall ticket, loop, start ns, step number
 * BLOCK_END    stall ticket, loop, start ns, duration ns, kind
 * GC_PAUSE   generation, duration ns, collected, loop or LG_NONE
 * LIFECYCLE  enum lg_lifecycle, argument, loop
 * CLOCK_STEP jump ns as int64
 * OVERFLOW   enum lg_section_kind of the table that became full
 * POOL_WAIT  queue ns, run ns, busy when it started
 * MARK       string id
 * CUMULATIVE stall ticket, loop, sum ns, steps */
#define LG_RECORDS(X) \
    X(REQUEST, 1, "request") \
    X(LAG, 2, "lag") \
    X(BLOCK_BEGIN, 3, "block_begin") \
    X(BLOCK_END, 4, "block_end") \
    X(GC_PAUSE, 5, "gc_pause") \
    X(LIFECYCLE, 6, "lifecycle") \
    X(CLOCK_STEP, 7, "clock_step") \
    X(OVERFLOW, 8, "overflow") \
    X(POOL_WAIT, 9, "pool_wait") \
    X(MARK, 10, "mark") \
    X(CUMULATIVE, 11, "cumulative")

enum lg_record_kind {
#define LG_X(name, number, text) LG_REC_##name = number,
    LG_RECORDS(LG_X)
#undef LG_X
};

enum lg_lifecycle {
    LG_LIFE_START = 1,
    LG_LIFE_LOOP_ADDED = 2,
    LG_LIFE_LOOP_CLOSED = 3,
    LG_LIFE_FORK_CHILD = 4,
    LG_LIFE_CLEAN_EXIT = 5,
    LG_LIFE_CONFIG_CHANGE = 6,
};

#define LG_REQ_EXCEPTION 1u
#define LG_REQ_CANCELLED 2u
#define LG_REQ_NO_RESPONSE 4u

#define LG_PAYLOAD_WORDS 5

/* 64 bytes; protocol in lg_ring.h. tag: kind | flags << 16 | writer << 32 |
 * endpoint << 48. */
struct lg_slot {
    uint64_t seq;
    uint64_t time_ns;
    uint64_t tag;
    uint64_t p[LG_PAYLOAD_WORDS];
};
#define LG_TAG(kind, flags, writer, endpoint) \
    ((uint64_t)(uint16_t)(kind) | (uint64_t)(uint16_t)(flags) << 16 | \
     (uint64_t)(uint16_t)(writer) << 32 | (uint64_t)(uint16_t)(endpoint) << 48)
#define LG_TAG_KIND(tag) ((uint32_t)(tag) & 0xffff)
#define LG_TAG_FLAGS(tag) ((uint32_t)((tag) >> 16) & 0xffff)
#define LG_TAG_WRITER(tag) ((uint32_t)((tag) >> 32) & 0xffff)
#define LG_TAG_ENDPOINT(tag) ((uint32_t)((tag) >> 48) & 0xffff)

enum lg_writer_role { LG_WRITER_FREE = 0, LG_WRITER_GIL = 1, LG_WRITER_WATCHDOG = 2 };

struct lg_writer {
    uint64_t role_tid; /* LG_PAIR(enum lg_writer_role, native tid) */
    uint64_t rings; /* bit set of ring indexes */
    uint64_t name; /* string id */
    uint64_t reserved[5];
};

/* ---- stacks ------------------------------------------------------------ */

#define LG_MAX_DEPTH 64

/* Key: hash, which includes the endpoint. Slot 0 is "(other stacks)".
 * Published by the release store of `count`. */
struct lg_stack {
    uint64_t hash;
    uint64_t first_ns;
    uint64_t last_ns;
    uint64_t count; /* stalls that showed it */
    uint64_t total_ns;
    uint64_t max_ns;
    uint64_t frame_depth; /* LG_PAIR(innermost frame, depth) */
    uint64_t endpoint_flags; /* LG_PAIR(endpoint, LG_STALL_MOVING or 0) */
};

/* Frame 0 means "no further frame". next < own index, so no loop can be. */
struct lg_frame {
    uint32_t file; /* string ids */
    uint32_t function;
    uint32_t line;
    uint32_t next; /* the caller */
};

/* ---- pins -------------------------------------------------------------- */

#define LG_PIN_SIZE(type, size) _Static_assert(sizeof(type) == (size), #type " has moved")
#define LG_PIN(type, field, off) \
    _Static_assert(offsetof(type, field) == (off), #type "." #field " has moved")

LG_PIN_SIZE(struct lg_header, 64);
LG_PIN(struct lg_header, endian_tag, 8);
LG_PIN(struct lg_header, abi_major, 12);
LG_PIN(struct lg_header, header_size, 16);
LG_PIN(struct lg_header, section_count, 20);
LG_PIN(struct lg_header, segment_size, 24);
LG_PIN(struct lg_header, incompatible_flags, 32);
LG_PIN(struct lg_header, compatible_flags, 40);
LG_PIN(struct lg_header, nonce, 48);
LG_PIN(struct lg_header, crc32c, 56);
LG_PIN(struct lg_header, state, 60);
LG_PIN_SIZE(struct lg_section, 40);
LG_PIN(struct lg_section, offset, 8);
LG_PIN(struct lg_section, stride, 24);
LG_PIN(struct lg_section, reserved, 32);
LG_PIN_SIZE(struct lg_proc_info, 1536);
LG_PIN(struct lg_proc_info, start_ticks, 16);
LG_PIN(struct lg_proc_info, pointer_size, 64);
LG_PIN(struct lg_proc_info, start_mono_ns, 80);
LG_PIN(struct lg_proc_info, agent_version, 112);
LG_PIN(struct lg_proc_info, app, 144);
LG_PIN(struct lg_proc_info, off_reason, 336);
LG_PIN(struct lg_proc_info, exe, 464);
LG_PIN(struct lg_proc_info, prefix, 1232);
LG_PIN_SIZE(struct lg_config_info, 128);
LG_PIN_SIZE(struct lg_anchor, 64);
LG_PIN_SIZE(struct lg_self, 256);
LG_PIN_SIZE(struct lg_feature, 64);
LG_PIN(struct lg_feature, reason, 24);
LG_PIN_SIZE(struct lg_tables, 64);
LG_PIN_SIZE(struct lg_endpoint, 256);
LG_PIN(struct lg_endpoint, steps, 72);
LG_PIN(struct lg_endpoint, blocked_ns, 120);
LG_PIN(struct lg_endpoint, blocked_by_cause_ns, 136);
LG_PIN(struct lg_endpoint, cumulative_waited, 208);
LG_PIN(struct lg_endpoint, last_seen_ns, 248);
LG_PIN_SIZE(struct lg_hist, 3456);
LG_PIN_SIZE(struct lg_loop_entry, 512);
LG_PIN(struct lg_loop_entry, iterations, 64);
LG_PIN(struct lg_loop_entry, heartbeat_ns, 128);
LG_PIN(struct lg_loop_entry, tasks, 192);
LG_PIN(struct lg_loop_entry, parts_ns, 256);
LG_PIN(struct lg_loop_entry, reserved, 368);
LG_PIN_SIZE(struct lg_cell, 32);
LG_PIN_SIZE(struct lg_loop_cell, 64);
LG_PIN_SIZE(struct lg_stall, 512);
LG_PIN(struct lg_stall, parts_ns, 72);
LG_PIN(struct lg_stall, waited, 200);
LG_PIN(struct lg_stall, reserved, 288);
LG_PIN_SIZE(struct lg_pool, 512);
LG_PIN(struct lg_pool, stuck, 128);
LG_PIN_SIZE(struct lg_ring, 128);
LG_PIN_SIZE(struct lg_slot, 64);
LG_PIN_SIZE(struct lg_writer, 64);
LG_PIN_SIZE(struct lg_stack, 64);
LG_PIN_SIZE(struct lg_frame, 16);

/* Header, section table, PROC and CONFIG share the immutable first page. */
#define LG_HEADER_SIZE (sizeof(struct lg_header) + LG_MAX_SECTIONS * sizeof(struct lg_section))
_Static_assert(LG_HEADER_SIZE == 1344 && LG_HEADER_SIZE % 64 == 0, "the header has moved");
_Static_assert(LG_HEADER_SIZE + sizeof(struct lg_proc_info) + sizeof(struct lg_config_info) <=
                   LG_HEADER_PAGE,
               "PROC and CONFIG lie in the header page");

#endif
