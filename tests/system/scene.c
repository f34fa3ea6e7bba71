/*
 * scene.c - plays a worker for the tests of the screens: writes a segment that
 * holds one consistent story, keeps it alive, and does what it is told.
 *
 *     scene DIR NAME frozen   the story's clock stands still at NOW
 *     scene DIR NAME live     the story ends now and the clock runs
 *     scene DIR NAME other    another worker of the same application, frozen
 *
 * The segment becomes DIR/NAME (DIR on a tmpfs). "ready" on standard output,
 * then one command a line, each answered with "ok":
 *
 *     block ROUTE          a step of POST ROUTE begins and stays
 *     stack                the watchdog has seen it: stack, cause, who waits
 *     end                  the step ends; its record is closed
 *     silent               the watchdog says nothing any more
 *     cut                  the file becomes shorter
 *     exit                 a clean end; the file stays
 *     die                  as kill -9 would: no word, the file stays
 *
 * End of input: the file is removed.
 *
 * The story, for NOW and 100 s before it: nine endpoints, each with a request
 * every `every_ms`; most take `usual_us` on the loop, and the blocks listed
 * below end at the times listed below. All counters, histograms, cells, stalls
 * and stacks are made from these by the same few functions.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../common/lg_atomic.h"
#include "../../common/lg_clock.h"
#include "../../common/lg_error.h"
#include "../../common/lg_hist.h"
#include "../../common/lg_ring.h"
#include "../../common/lg_segment.h"
#include "../../common/lg_seqlock.h"

#define FROZEN_NOW_NS (UINT64_C(10000) * LG_NS_PER_S)
#define FROZEN_REAL_NS (UINT64_C(1767621751) * LG_NS_PER_S)     /* 2026-01-05 14:02:31 UTC */
#define UP_NS (UINT64_C(8047) * LG_NS_PER_S)                    /* 02:14:07 */
#define STORY_NS (UINT64_C(100) * LG_NS_PER_S)
#define THRESHOLD_NS (50 * LG_NS_PER_MS)
#define TICK_MS 10
#define TID 41207
#define OPEN 15

/* X(NAME, kind, method, name, a request every ms, usual us on the loop, 1 in
 * `slow_each` takes slow_us, response us) */
#define ENDPOINTS(X) \
    X(REPORTS, REQUEST, POST, "/reports/{id}", 310, 41000, 11, 96000 / 2, 310000) \
    X(SEARCH, REQUEST, GET, "/search", 54, 2100, 30, 12000, 9000) \
    X(AVATAR, REQUEST, PUT, "/users/{user_id}/avatar", 1100, 6000, 9, 22000, 30000) \
    X(HEALTH, REQUEST, GET, "/health", 52, 420, 50, 900, 500) \
    X(ITEM, REQUEST, GET, "/items/{item_id}", 28, 1100, 40, 2900, 5000) \
    X(ITEMS, REQUEST, POST, "/items", 99, 900, 25, 2700, 7000) \
    X(OPENAPI, REQUEST, GET, "/openapi.json", 990, 400, 10, 1200, 600) \
    X(QUEUE, TASK, NONE, "poll_queue", 1000, 700, 100000, 700, 700) \
    X(IDLE, LOOP, NONE, "idle/other", 500, 60, 100000, 60, 60)

enum {
    OTHER_ENDPOINT,
#define X(id, kind, method, name, every, usual, each, slow, response) id,
    ENDPOINTS(X)
#undef X
        ENDPOINT_END
};

static const struct {
    const char *name;
    uint32_t kind;
    uint32_t method;
    uint64_t every_ms;
    uint64_t usual_us;
    uint64_t slow_each;
    uint64_t slow_us;
    uint64_t response_us;
} endpoints[] = {[OTHER_ENDPOINT] = {0},
#define X(id, kind, method, name, every, usual, each, slow, response) \
    [id] = {name, LG_KIND_##kind, LG_METHOD_##method, every, usual, each, slow, response},
                 ENDPOINTS(X)
#undef X
};

/* Stacks: innermost first, "function file line", ended by NULL. */
static const char *const stacks[][16] = {
    {"(none)", "", "0"},
    {"_render", "/srv/app/.venv/lib/python3.12/site-packages/reportlab/pdfgen/canvas.py", "1142",
     "render_pdf", "/srv/app/app/reports.py", "88", "build_report", "/srv/app/app/reports.py", "52",
     "create_report", "/srv/app/app/routes/reports.py", "19"},
    {"render_pdf", "/srv/app/app/reports.py", "88", "build_report", "/srv/app/app/reports.py", "52",
     "create_report", "/srv/app/app/routes/reports.py", "19"},
    {"dumps", "/usr/lib/python3.12/json/__init__.py", "231", "to_response",
     "/srv/app/app/reports.py", "97"},
    {"loads", "/usr/lib/python3.12/json/decoder.py", "337", "search",
     "/srv/app/app/routes/search.py", "44"},
    {"resize", "/srv/app/app/imaging.py", "40"},
    {"fetch", "/srv/app/app/jobs.py", "31"},
};
enum {
    STACK_NONE,
    STACK_RENDER,
    STACK_PDF,
    STACK_DUMPS,
    STACK_LOADS,
    STACK_RESIZE,
    STACK_FETCH,
    STACK_COUNT
};

/* What every request's stack has outside. */
static const char *const outside[] = {
    "run_endpoint_function",
    "fastapi/routing.py",
    "212",
    "app",
    "fastapi/routing.py",
    "301",
    "wrapped_app",
    "starlette/_exception_handler.py",
    "42",
    "app",
    "starlette/routing.py",
    "76",
    "handle",
    "starlette/routing.py",
    "288",
    "app",
    "starlette/routing.py",
    "735",
    "__call__",
    "starlette/applications.py",
    "112",
    "__call__",
    "fastapi/applications.py",
    "1054",
    "run_asgi",
    "uvicorn/protocols/http/h11_impl.py",
    "403",
};

/* Blocks, oldest first: ended so long before NOW. */
static const struct {
    uint64_t age_ms;
    uint64_t duration_ms;
    uint32_t endpoint;
    uint32_t stack;
    uint32_t cause;
    uint32_t waited;
} blocks[] = {
    {91000, 88, SEARCH, STACK_LOADS, LG_CAUSE_CPU, 2},
    {85200, 91, SEARCH, STACK_LOADS, LG_CAUSE_CPU, 2},
    {78400, 143, AVATAR, STACK_RESIZE, LG_CAUSE_CPU, 1},
    {49700, 1020, REPORTS, STACK_PDF, LG_CAUSE_CPU, 11},
    {40100, 58, QUEUE, STACK_FETCH, LG_CAUSE_IO, 0},
    {33100, 96, SEARCH, STACK_LOADS, LG_CAUSE_CPU, 2},
    {23200, 61, HEALTH, STACK_NONE, LG_CAUSE_GC, 3},
    {11900, 1840, REPORTS, STACK_PDF, LG_CAUSE_CPU, 9},
    {9600, 140, REPORTS, STACK_DUMPS, LG_CAUSE_CPU, 4},
    {7300, 93, SEARCH, STACK_LOADS, LG_CAUSE_CPU, 2},
    {6100, 143, AVATAR, STACK_RESIZE, LG_CAUSE_CPU, 1},
    {5700, 61, HEALTH, STACK_NONE, LG_CAUSE_GC, 3},
};
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

struct scene {
    struct lg_segment seg;
    struct lg_ring_writer requests;
    bool live;
    bool silent;
    uint64_t now_ns;
    uint64_t tickets;
    uint64_t steps;
    uint32_t stack[STACK_COUNT];
    uint32_t main_thread;
    uint64_t block_since_ns;            /* 0 = none */
    uint32_t block_endpoint;
};

static int make(struct scene *s, const char *dir, const char *name, const char *mode);
static void name_endpoints(struct scene *s, bool other);
static uint32_t make_stack(struct scene *s, uint32_t which, uint32_t endpoint);
static uint32_t text(struct scene *s, const char *words);
static void play(struct scene *s, bool other);
static void finish(struct scene *s, uint32_t endpoint, uint64_t end_ns, uint64_t on_loop_ns,
                   uint64_t response_ns, uint32_t waited);
static void add_history(struct scene *s, uint32_t endpoint, uint64_t end_ns, uint64_t on_loop_ns,
                        uint32_t waited);
static void add_stall(struct scene *s, uint32_t endpoint, uint64_t start_ns, uint64_t duration_ns,
                      uint32_t stack, uint32_t cause, uint32_t waited, uint32_t flags);
static void fill_pool(struct scene *s);
static void heartbeat(struct scene *s);
static bool command(struct scene *s, char *line);
static void begin_block(struct scene *s, const char *route, uint64_t since_ns);
static void see_block(struct scene *s);
static void end_block(struct scene *s);
static void set_line_a(struct scene *s, uint64_t state, uint64_t start_ns, uint32_t endpoint);

int
main(int argc, char **argv)
{
    struct scene scene = {0};
    char line[256];
    if (argc != 4) {
        fprintf(stderr, "usage: scene DIR NAME frozen|live|other\n");
        return 2;
    }
    int err = make(&scene, argv[1], argv[2], argv[3]);
    if (err != 0) {
        fprintf(stderr, "scene: %s/%s: %s\n", argv[1], argv[2], lg_strerror(err));
        return 1;
    }
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        struct pollfd in = {.fd = 0, .events = POLLIN};
        if (poll(&in, 1, scene.live ? TICK_MS : -1) < 0 && errno != EINTR) {
            return 1;
        }
        if (scene.live) {
            scene.now_ns = lg_now_ns();
            heartbeat(&scene);
        }
        if (in.revents == 0) {
            continue;
        }
        if (fgets(line, sizeof(line), stdin) == NULL) {
            break;
        }
        line[strcspn(line, "\n")] = '\0';
        bool known = command(&scene, line);
        printf(known ? "ok\n" : "what?\n");
        fflush(stdout);
    }
    lg_segment_close(&scene.seg, false);
    return 0;
}

static int
make(struct scene *s, const char *dir, const char *name, const char *mode)
{
    bool other = strcmp(mode, "other") == 0;
    s->live = strcmp(mode, "live") == 0;
    s->now_ns = s->live ? lg_now_ns() : FROZEN_NOW_NS;
    /* A machine may be younger than the worker of the frozen story. */
    uint64_t up_ns = s->live ? STORY_NS + 20 * LG_NS_PER_S : UP_NS;
    struct lg_clocks clocks = {.real_ns = FROZEN_REAL_NS};
    if (s->live) {
        lg_clocks_read(&clocks);
    }
    struct lg_segment_options options = {
        .dir = dir,
        .endpoints = 32,
        .proc =
            {
                .pid = s->live ? 0
                       : other ? TID + 1
                               : TID,
                .ppid = s->live ? 0 : 41200,
                .start_ticks = s->live ? 0 : 4711,
                .ns_pid = s->live ? 0 : 1,      /* frozen: nobody to ask /proc about */
                .python_version_hex = 0x030C07F0,
                .start_mono_ns = s->now_ns - up_ns,
                .start_real_ns = clocks.real_ns - up_ns,
                .start_boot_ns = s->now_ns - up_ns,
                .start_uncertainty_ns = 60,
                .agent_version = "0.1.0",
                .app = "uvicorn app.main:app",
                .server = "uvicorn",
                .argv = "/usr/bin/python3.12 -m uvicorn app.main:app",
                .cwd = "/srv/app",
                .prefix = "/srv/app/.venv",
            },
        .config =
            {
                .threshold_ns = THRESHOLD_NS,
                .iteration_threshold_ns = THRESHOLD_NS,
                .watchdog_interval_ns = 10 * LG_NS_PER_MS,
                .stack_depth = LG_MAX_DEPTH,
                .keep_segment = 2,
                .hooks = 1,
            },
    };
    int err = lg_segment_create(&options, &s->seg);
    if (err != 0) {
        return err;
    }
    char path[300];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (rename(s->seg.path, path) < 0) {
        return -errno;
    }
    snprintf(s->seg.path, sizeof(s->seg.path), "%.250s", path);
    lg_ring_init(&s->requests, &s->seg.rings[LG_RING_REQUESTS], s->seg.slots, 0,
                 LG_RING_SLOTS_REQUESTS, LG_RING_BULK);
    struct lg_anchor *anchor = s->seg.anchor;
    lg_seq_begin(&anchor->seq);
    lg_store_relaxed(&anchor->mono_ns, s->now_ns);
    lg_store_relaxed(&anchor->real_ns, clocks.real_ns);
    lg_store_relaxed(&anchor->boot_ns, s->now_ns);
    lg_seq_end(&anchor->seq);
    name_endpoints(s, other);
    struct lg_loop_entry *loop = &s->seg.loops[0];
    s->main_thread = text(s, "MainThread");
    loop->created_ns = s->now_ns - up_ns;
    loop->threshold_ns = THRESHOLD_NS;
    loop->tasks = 61;
    loop->ready_length = 0;
    loop->open_requests = OPEN;
    loop->kind_thread_name = LG_PAIR(LG_LOOP_UVLOOP, s->main_thread);
    s->steps = 900000;
    set_line_a(s, LG_LOOP_IDLE, 0, 0);
    lg_store_release(&s->seg.tables->loops_used, 1);
    play(s, other);
    fill_pool(s);
    heartbeat(s);
    if (!s->live && !other) {
        begin_block(s, "/reports/{id}", s->now_ns - 1270 * LG_NS_PER_MS);
        see_block(s);
    }
    return 0;
}

static uint32_t
text(struct scene *s, const char *words)
{
    return lg_strings_append(&s->seg, words, strlen(words));
}

static void
name_endpoints(struct scene *s, bool other)
{
    for (uint32_t i = 1; i < ENDPOINT_END; i++) {
        struct lg_endpoint *e = &s->seg.endpoints[i];
        e->first_seen_ns = s->now_ns - STORY_NS;
        lg_store_release(&e->key, LG_ENDPOINT_KEY(text(s, endpoints[i].name), endpoints[i].kind,
                                                  endpoints[i].method));
    }
    s->seg.endpoints[REPORTS].in_flight_threshold_us = LG_PAIR(1, 0);
    s->seg.endpoints[ITEM].in_flight_threshold_us = LG_PAIR(other ? 2 : 6, 0);
    s->seg.endpoints[HEALTH].in_flight_threshold_us = LG_PAIR(5, 0);
    s->seg.endpoints[SEARCH].in_flight_threshold_us = LG_PAIR(3, 0);
    lg_store_release(&s->seg.tables->endpoints_used, ENDPOINT_END);
}

/* ---- the story --------------------------------------------------------- */

static void
play(struct scene *s, bool other)
{
    /* Requests in the order of their ends, as a worker would write them. */
    for (uint64_t ms = STORY_NS / LG_NS_PER_MS; ms > 0; ms--) {
        uint64_t end_ns = s->now_ns - ms * LG_NS_PER_MS;
        for (uint32_t i = 1; i < ENDPOINT_END; i++) {
            if (ms % endpoints[i].every_ms != i || ms < 1400) {
                continue;
            }
            uint64_t n = ms / endpoints[i].every_ms;
            uint64_t usual = endpoints[i].usual_us;
            uint64_t us = n % endpoints[i].slow_each == 0 ? endpoints[i].slow_us
                                                          : usual - usual * (n % 17) / 40;
            finish(s, i, end_ns, us * LG_NS_PER_US, endpoints[i].response_us * LG_NS_PER_US, 0);
        }
        for (size_t b = 0; b < COUNT(blocks); b++) {
            if (blocks[b].age_ms != ms || (other && b % 3 != 0)) {
                continue;
            }
            uint64_t ns = blocks[b].duration_ms * LG_NS_PER_MS;
            uint32_t stack = make_stack(s, blocks[b].stack, blocks[b].endpoint);
            add_stall(s, blocks[b].endpoint, end_ns - ns, ns, stack, blocks[b].cause,
                      blocks[b].waited, LG_STALL_WATCHED);
            finish(s, blocks[b].endpoint, end_ns, ns, ns + 20 * LG_NS_PER_MS, blocks[b].waited);
        }
    }
}

static void
finish(struct scene *s, uint32_t endpoint, uint64_t end_ns, uint64_t on_loop_ns,
       uint64_t response_ns, uint32_t waited)
{
    struct lg_endpoint *e = &s->seg.endpoints[endpoint];
    struct lg_loop_entry *loop = &s->seg.loops[0];
    bool request = endpoints[endpoint].kind == LG_KIND_REQUEST;
    bool blocked = on_loop_ns >= THRESHOLD_NS;
    lg_hist_add(&s->seg.hists[LG_HIST_ON_LOOP(endpoint)], on_loop_ns);
    lg_hist_add(&s->seg.hists[LG_HIST_LAG(s->seg.endpoint_count, 0)], on_loop_ns);
    lg_add_single(&e->steps, 1);
    lg_add_single(&e->on_loop_sum_ns, on_loop_ns);
    lg_max_single(&e->step_max_ns, on_loop_ns);
    lg_store_relaxed(&e->last_seen_ns, end_ns);
    lg_add_single(&loop->steps, 1);
    lg_add_single(&loop->iterations, 1);
    lg_add_single(&loop->sum_lag_ns, on_loop_ns);
    if (on_loop_ns > loop->max_lag_ns) {
        loop->max_lag_ns = on_loop_ns;
        loop->max_lag_at_ns = end_ns;
    }
    if (blocked) {
        lg_add_single(&e->blocked_ns, on_loop_ns);
        lg_add_single(&e->blocks, 1);
        lg_add_single(&e->blocked_by_cause_ns[LG_CAUSE_CPU], on_loop_ns);
        e->cumulative_waited += LG_PAIR(0, waited);
        lg_add_single(&loop->blocked_ns, on_loop_ns);
        lg_add_single(&loop->blocks, 1);
    }
    add_history(s, endpoint, end_ns, on_loop_ns, waited);
    if (request) {
        uint32_t id = 0x8f210000u + (uint32_t)e->requests;
        lg_hist_add(&s->seg.hists[LG_HIST_RESPONSE(endpoint)], response_ns);
        lg_add_single(&e->response_sum_ns, response_ns);
        lg_max_single(&e->response_max_ns, response_ns);
        lg_add_single(&e->status_2xx, 1);
        lg_add_single(&loop->requests, 1);
        lg_ring_push(&s->requests, end_ns, LG_TAG(LG_REC_REQUEST, 0, 0, endpoint), response_ns,
                     on_loop_ns, on_loop_ns, LG_PAIR(id, 200u | endpoints[endpoint].method << 16),
                     0);
        lg_add_single(&e->requests, 1);
        lg_add_single(&s->seg.self->requests, 1);
    }
}

static uint32_t
clamp_add(uint32_t a, uint64_t b)
{
    return b > UINT32_MAX - a ? UINT32_MAX : a + (uint32_t)b;
}

static void
add_cell(struct lg_cell *cell, uint64_t number, bool request, uint64_t us, bool blocked,
         uint32_t waited)
{
    if (LG_LO(cell->second_requests) != (uint32_t)number) {
        *cell = (struct lg_cell){.second_requests = LG_PAIR(number, 0)};
    }
    cell->second_requests += LG_PAIR(0, request ? 1 : 0);
    cell->steps_busy_us =
        LG_PAIR(LG_LO(cell->steps_busy_us) + 1, clamp_add(LG_HI(cell->steps_busy_us), us));
    if (blocked) {
        cell->blocked_us_blocks = LG_PAIR(clamp_add(LG_LO(cell->blocked_us_blocks), us),
                                          LG_HI(cell->blocked_us_blocks) + 1);
    }
    uint32_t max = LG_LO(cell->max_step_us_waited);
    cell->max_step_us_waited =
        LG_PAIR(us > max ? us : max, LG_HI(cell->max_step_us_waited) + waited);
}

static void
add_history(struct scene *s, uint32_t endpoint, uint64_t end_ns, uint64_t on_loop_ns,
            uint32_t waited)
{
    uint64_t second = end_ns / LG_NS_PER_S;
    uint64_t us = on_loop_ns / LG_NS_PER_US;
    bool blocked = on_loop_ns >= THRESHOLD_NS;
    bool request = endpoints[endpoint].kind == LG_KIND_REQUEST;
    struct lg_cell *cells = s->seg.endpoint_history + (size_t)endpoint * LG_CELLS;
    add_cell(&cells[second % LG_CELLS_1S], second, request, us, blocked, waited);
    add_cell(&cells[LG_CELLS_1S + second / 10 % LG_CELLS_10S], second / 10, request, us, blocked,
             waited);
    struct lg_loop_cell *cell = &s->seg.loop_history[second % LG_LOOP_CELLS];
    if (LG_LO(cell->second_iterations) != (uint32_t)second) {
        *cell = (struct lg_loop_cell){.second_iterations = LG_PAIR(second, 0)};
    }
    cell->second_iterations += LG_PAIR(0, 1);
    uint32_t max = LG_HI(cell->busy_us_max_lag_us);
    cell->busy_us_max_lag_us =
        LG_PAIR(clamp_add(LG_LO(cell->busy_us_max_lag_us), us), us > max ? us : max);
    cell->requests_open = LG_PAIR(LG_LO(cell->requests_open) + (request ? 1 : 0), OPEN);
    if (blocked) {
        cell->blocked_us_blocks = LG_PAIR(clamp_add(LG_LO(cell->blocked_us_blocks), us),
                                          LG_HI(cell->blocked_us_blocks) + 1);
    }
}

/* An equal stack of the same endpoint is found again. */
static uint32_t
make_stack(struct scene *s, uint32_t which, uint32_t endpoint)
{
    if (which == STACK_NONE || s->stack[which] != 0) {
        return s->stack[which];
    }
    uint32_t frame = 0;
    uint32_t depth = 0;
    bool request = endpoints[endpoint].kind == LG_KIND_REQUEST;
    for (size_t i = COUNT(outside); request && i >= 3; i -= 3) {
        char file[200];
        snprintf(file, sizeof(file), "/srv/app/.venv/lib/python3.12/site-packages/%s",
                 outside[i - 2]);
        frame = lg_frames_append(&s->seg, text(s, file), text(s, outside[i - 3]),
                                 (uint32_t)atoi(outside[i - 1]), frame);
        depth++;
    }
    size_t count = 0;
    while (count < 16 && stacks[which][count] != NULL) {
        count++;
    }
    for (size_t i = count; i >= 3; i -= 3) {
        frame =
            lg_frames_append(&s->seg, text(s, stacks[which][i - 2]), text(s, stacks[which][i - 3]),
                             (uint32_t)atoi(stacks[which][i - 1]), frame);
        depth++;
    }
    uint32_t id = (uint32_t)s->seg.tables->stacks_used;
    struct lg_stack *stack = &s->seg.stacks[id];
    stack->hash = 0x1000 + which;
    stack->frame_depth = LG_PAIR(frame, depth);
    stack->endpoint_flags = LG_PAIR(endpoint, 0);
    lg_store_release(&s->seg.tables->stacks_used, id + 1);
    s->stack[which] = id;
    return id;
}

static void
add_stall(struct scene *s, uint32_t endpoint, uint64_t start_ns, uint64_t duration_ns,
          uint32_t stack, uint32_t cause, uint32_t waited, uint32_t flags)
{
    static const uint32_t who[] = {ITEM, HEALTH, SEARCH};
    uint64_t ticket = s->tickets++;
    struct lg_stall *stall = &s->seg.stalls[ticket % s->seg.stall_count];
    bool ongoing = (flags & LG_STALL_ONGOING) != 0;
    lg_seq_begin(&stall->seq);
    stall->ticket = ticket + 1;
    stall->info = LG_STALL_INFO(LG_STALL_STEP, cause, flags, 0);
    stall->step = s->steps + ticket;
    stall->start_ns = start_ns;
    stall->duration_ns = duration_ns;
    stall->threshold_ns = THRESHOLD_NS;
    stall->endpoint_holder = LG_PAIR(endpoint, 0);
    stall->request_task = LG_PAIR(0x8f21c400u + (uint32_t)ticket, LG_TASK_NUMBER_BIT | 8123u);
    memset(stall->parts_ns, 0, sizeof(stall->parts_ns));
    stall->parts_ns[cause] = duration_ns - duration_ns / 20;
    stall->parts_ns[LG_CAUSE_OTHER] = duration_ns / 20;
    stall->call_thread =
        LG_PAIR(cause == LG_CAUSE_IO ? text(s, "recv fd 11 <- 127.0.0.1:5432") : 0, s->main_thread);
    stall->stack_holder_stack = LG_PAIR(stack, 0);
    stall->samples_tid = LG_PAIR(12, TID);
    stall->waiting_open = LG_PAIR(waited, 0);
    stall->waited_requests = ongoing ? 0 : waited;
    stall->waited_longest_ns = ongoing || waited == 0 ? 0 : duration_ns - duration_ns / 10;
    stall->waited_sum_ns = ongoing ? 0 : waited * duration_ns / 2;
    for (size_t i = 0; i < COUNT(who); i++) {
        uint32_t part = i == 0 ? waited - 2 * (waited / 3) : waited / 3;
        stall->waited[i].endpoint_count = part > 0 && !ongoing ? LG_PAIR(who[i], part) : 0;
        stall->waited[i].ns = ongoing ? 0 : part * duration_ns / 2;
    }
    lg_seq_end(&stall->seq);
    if (stack != 0) {
        struct lg_stack *t = &s->seg.stacks[stack];
        t->first_ns = t->count == 0 ? start_ns : t->first_ns;
        t->last_ns = start_ns;
        t->total_ns += ongoing ? 0 : duration_ns;
        t->max_ns = duration_ns > t->max_ns ? duration_ns : t->max_ns;
        lg_store_release(&t->count, t->count + 1);
    }
    lg_add_single(&s->seg.self->stalls, 1);
    lg_store_release(&s->seg.tables->stalls_head, s->tickets);
}

static void
fill_pool(struct scene *s)
{
    struct lg_pool *pool = s->seg.pool;
    struct lg_hist *wait =
        &s->seg.hists[LG_HIST_POOL_WAIT(s->seg.endpoint_count, s->seg.loop_count)];
    pool->busy = 31;
    pool->waiting = 2;
    pool->high_water = 40;
    pool->times_full = 7;
    pool->submitted = 5321;
    pool->finished = 5288;
    pool->waiting_high_water = 19;
    pool->wait_max_ns = 412 * LG_NS_PER_MS;
    pool->run_max_ns = 9400 * LG_NS_PER_MS;
    for (int i = 0; i < 200; i++) {
        uint64_t ns = i < 180 ? 60 * LG_NS_PER_US : (uint64_t)(i - 170) * 12 * LG_NS_PER_MS;
        lg_hist_add(wait, ns);
    }
    pool->wait_sum_ns = 5288 * 3 * LG_NS_PER_MS;
    pool->run_sum_ns = 5288 * 21 * LG_NS_PER_MS;
    s->seg.endpoints[ITEMS].pool_wait_ns = 9400 * LG_NS_PER_MS;
    s->seg.endpoints[ITEMS].pool_run_ns = 80 * LG_NS_PER_S;
    s->seg.endpoints[SEARCH].pool_wait_ns = 6400 * LG_NS_PER_MS;
    s->seg.endpoints[SEARCH].pool_run_ns = 31 * LG_NS_PER_S;
    pool->stuck[0].since_ns = s->now_ns - 9400 * LG_NS_PER_MS;
    pool->stuck[0].stack = make_stack(s, STACK_FETCH, QUEUE);
    pool->stuck[0].tid_endpoint = LG_PAIR(TID + 17, ITEMS);
    lg_store_release(&pool->limit, 40);
}

/* ---- what goes on ------------------------------------------------------ */

static void
heartbeat(struct scene *s)
{
    struct lg_loop_entry *loop = &s->seg.loops[0];
    if (s->silent) {
        return;
    }
    lg_store_relaxed(&loop->heartbeat_ns, s->now_ns);
    if (s->block_since_ns == 0) {
        lg_store_relaxed(&loop->last_lag_ns, 300 * LG_NS_PER_US);
        lg_store_relaxed(&loop->awake_since_ns, 0);
        lg_store_relaxed(&loop->poll_since_ns, s->now_ns);
        lg_add_single(&loop->iterations, 1);
    }
}

static void
set_line_a(struct scene *s, uint64_t state, uint64_t start_ns, uint32_t endpoint)
{
    struct lg_loop_entry *loop = &s->seg.loops[0];
    lg_seq_begin(&loop->seq);
    lg_store_relaxed(&loop->state, state);
    lg_store_relaxed(&loop->step, s->steps + s->tickets);
    lg_store_relaxed(&loop->step_start_ns, start_ns);
    lg_store_relaxed(&loop->endpoint_task, LG_PAIR(endpoint, LG_TASK_NUMBER_BIT | 8123u));
    lg_store_relaxed(&loop->request_tid,
                     LG_PAIR(endpoint != 0 ? 0x8f21c400u + (uint32_t)s->tickets : 0, TID));
    lg_seq_end(&loop->seq);
}

static bool
command(struct scene *s, char *line)
{
    if (strncmp(line, "block ", 6) == 0) {
        begin_block(s, line + 6, s->now_ns);
    }
    else if (strcmp(line, "stack") == 0) {
        see_block(s);
    }
    else if (strcmp(line, "end") == 0) {
        end_block(s);
    }
    else if (strcmp(line, "silent") == 0) {
        s->silent = true;
    }
    else if (strcmp(line, "cut") == 0) {
        return ftruncate(s->seg.fd, 65536) == 0 || truncate(s->seg.path, 65536) == 0;
    }
    else if (strcmp(line, "exit") == 0) {
        lg_segment_close(&s->seg, true);
        printf("ok\n");
        exit(0);
    }
    else if (strcmp(line, "die") == 0) {
        _exit(0);
    }
    else {
        return false;
    }
    return true;
}

static void
begin_block(struct scene *s, const char *route, uint64_t since_ns)
{
    s->block_endpoint = REPORTS;
    for (uint32_t i = 1; i < ENDPOINT_END; i++) {
        if (strcmp(endpoints[i].name, route) == 0) {
            s->block_endpoint = i;
        }
    }
    s->block_since_ns = since_ns;
    lg_store_relaxed(&s->seg.loops[0].awake_since_ns, since_ns);
    set_line_a(s, LG_LOOP_STEP, since_ns, s->block_endpoint);
}

static void
see_block(struct scene *s)
{
    struct lg_loop_entry *loop = &s->seg.loops[0];
    uint64_t step = s->steps + s->tickets;
    uint32_t stack = make_stack(s, STACK_RENDER, s->block_endpoint);
    add_stall(s, s->block_endpoint, s->block_since_ns, s->now_ns - s->block_since_ns, stack,
              LG_CAUSE_CPU, 14, LG_STALL_ONGOING | LG_STALL_WATCHED);
    lg_store_relaxed(&loop->stall_since_ns, s->block_since_ns);
    lg_store_relaxed(&loop->stall_step, step);
    lg_store_release(&loop->stall_ticket, s->tickets);
}

static void
end_block(struct scene *s)
{
    struct lg_loop_entry *loop = &s->seg.loops[0];
    uint64_t duration_ns = s->now_ns - s->block_since_ns;
    if (loop->stall_ticket == 0) {
        see_block(s);
    }
    s->tickets--;                       /* the same record, closed */
    lg_store_release(&loop->stall_ticket, 0);
    add_stall(s, s->block_endpoint, s->block_since_ns, duration_ns,
              make_stack(s, STACK_RENDER, s->block_endpoint), LG_CAUSE_CPU, 14, LG_STALL_WATCHED);
    finish(s, s->block_endpoint, s->now_ns, duration_ns, duration_ns, 14);
    s->block_since_ns = 0;
    set_line_a(s, LG_LOOP_IDLE, 0, 0);
}
