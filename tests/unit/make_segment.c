/*
 * make_segment.c - writes tests/data/segment-1.0.lg: what a worker left that
 * was killed in the middle of a block. The same bytes at every run.
 *
 *     make_segment tests/data/segment-1.0.lg
 *
 * The story, by seconds of its monotonic clock: start at 1000, a request every
 * 300 ms from then on, 200 in all. Every 50th is POST /report and blocks the
 * loop for 120 ms in a read; all others are GET /items/{item_id} with 400 us
 * on the loop. At 1060.5 another report begins, and kill -9 comes 700 ms
 * later, while a record is being written. One file per layout version stays.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lg_atomic.h"
#include "lg_clock.h"
#include "lg_error.h"
#include "lg_hist.h"
#include "lg_ring.h"
#include "lg_segment.h"
#include "lg_seqlock.h"

#define START_NS (1000 * LG_NS_PER_S)
#define START_REAL_NS (UINT64_C(1767225600) * LG_NS_PER_S)      /* 2026-01-01 00:00 UTC */
#define EVERY_NS (300 * LG_NS_PER_MS)
#define REQUESTS 200
#define BLOCK_NS (120 * LG_NS_PER_MS)
#define ITEM_NS (400 * LG_NS_PER_US)
#define THRESHOLD_NS (50 * LG_NS_PER_MS)
#define LAST_BLOCK_NS (START_NS + 60500 * LG_NS_PER_MS)
#define DEATH_NS (LAST_BLOCK_NS + 700 * LG_NS_PER_MS)
#define TID 4242

enum { ITEMS = 1, REPORT = 2 };         /* endpoints */

struct story {
    struct lg_segment seg;
    struct lg_ring_writer requests;
    struct lg_ring_writer events;
    struct lg_ring_writer watchdog;
    uint32_t stack;
    uint32_t call;                      /* string id of the blocking call */
};

static struct lg_segment_options options_of_the_worker(const char *dir);
static void name_things(struct story *story);
static uint32_t add_endpoint(struct story *story, const char *name, uint32_t method);
static void add_stack(struct story *story);
static void serve(struct story *story, uint32_t number);
static void count_request(struct story *story, uint32_t endpoint, uint64_t end_ns,
                          uint64_t on_loop_ns);
static void count_history(struct story *story, uint32_t endpoint, uint64_t end_ns,
                          uint64_t on_loop_ns);
static void add_cell(struct lg_cell *cell, uint64_t number, uint64_t busy_us, bool blocked);
static void block(struct story *story, uint64_t start_ns, uint64_t duration_ns, uint32_t request,
                  bool ongoing);
static void count_block(struct story *story, uint64_t start_ns, uint64_t duration_ns);
static void die(struct story *story);
static int save(const struct lg_segment *seg, const char *path);

int
main(int argc, char **argv)
{
    struct story story = {0};
    char dir[] = "/dev/shm/lg-make-XXXXXX";
    if (argc != 2 || mkdtemp(dir) == NULL) {
        fprintf(stderr, "usage: make_segment FILE\n");
        return 2;
    }
    struct lg_segment_options options = options_of_the_worker(dir);
    int err = lg_segment_create(&options, &story.seg);
    if (err == 0) {
        name_things(&story);
        for (uint32_t i = 0; i < REQUESTS; i++) {
            serve(&story, i);
        }
        die(&story);
        err = save(&story.seg, argv[1]);
        lg_segment_close(&story.seg, false);
    }
    rmdir(dir);
    if (err != 0) {
        fprintf(stderr, "make_segment: %s: %s\n", argv[1], lg_strerror(err));
    }
    return err != 0;
}

static struct lg_segment_options
options_of_the_worker(const char *dir)
{
    struct lg_segment_options options = {
        .dir = dir,
        .endpoints = 8,
        .proc =
            {
                .pid = TID,
                .ppid = 4200,
                .uid = 1000,
                .gid = 1000,
                .start_ticks = 99950,
                .boot_id = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
                .ns_pid = 4026531836,
                .ns_mnt = 4026531841,
                .ns_time = 4026531834,
                .python_version_hex = 0x030B07F0,
                .clock_ticks_per_s = 100,
                .start_mono_ns = START_NS,
                .start_real_ns = START_REAL_NS,
                .start_boot_ns = START_NS,
                .start_uncertainty_ns = 60,
                .agent_version = "1.0.0",
                .app = "uvicorn shop:app",
                .server = "uvicorn",
                .exe = "/usr/bin/python3.11",
                .argv = "/usr/bin/python3.11 -m uvicorn shop:app",
                .cwd = "/srv/shop",
                .prefix = "/usr",
            },
        .config =
            {
                .threshold_ns = THRESHOLD_NS,
                .iteration_threshold_ns = THRESHOLD_NS,
                .watchdog_interval_ns = 10 * LG_NS_PER_MS,
                .stack_depth = LG_MAX_DEPTH,
                .keep_segment = 1,
                .hooks = 1,
                .task_factory = 1,
            },
    };
    return options;
}

static void
name_things(struct story *story)
{
    struct lg_segment *seg = &story->seg;
    lg_ring_init(&story->requests, &seg->rings[LG_RING_REQUESTS], seg->slots, 0,
                 LG_RING_SLOTS_REQUESTS, LG_RING_BULK);
    lg_ring_init(&story->events, &seg->rings[LG_RING_EVENTS], seg->slots, LG_RING_SLOTS_REQUESTS,
                 LG_RING_SLOTS_EVENTS, LG_RING_RARE);
    lg_ring_init(&story->watchdog, &seg->rings[LG_RING_WATCHDOG], seg->slots,
                 LG_RING_SLOTS_REQUESTS + LG_RING_SLOTS_EVENTS, LG_RING_SLOTS_REST, LG_RING_RARE);
    lg_ring_push(&story->events, START_NS, LG_TAG(LG_REC_LIFECYCLE, 0, 0, 0), LG_LIFE_START, 0, 0,
                 0, 0);
    lg_ring_push(&story->events, START_NS, LG_TAG(LG_REC_LIFECYCLE, 0, 0, 0), LG_LIFE_LOOP_ADDED, 0,
                 0, 0, 0);
    add_endpoint(story, "/items/{item_id}", LG_METHOD_GET);
    add_endpoint(story, "/report", LG_METHOD_POST);
    add_stack(story);
    story->call = lg_strings_append(seg, "read(/srv/shop/report.csv)", 26);
    strcpy(seg->features[0].name, "hooks");
    seg->features[0].state = LG_FEATURE_ON;
    strcpy(seg->features[1].name, "calls");
    strcpy(seg->features[1].reason, "not asked for");
    seg->features[1].state = LG_FEATURE_OFF;
    seg->loops[0].created_ns = START_NS;
    seg->loops[0].threshold_ns = THRESHOLD_NS;
    seg->loops[0].tasks = 3;
    seg->loops[0].kind_thread_name =
        LG_PAIR(LG_LOOP_ASYNCIO, lg_strings_append(seg, "MainThread", 10));
    seg->tables->loops_used = 1;
    seg->self->lifecycle = 2;
}

static uint32_t
add_endpoint(struct story *story, const char *name, uint32_t method)
{
    struct lg_segment *seg = &story->seg;
    uint32_t index = (uint32_t)seg->tables->endpoints_used;
    uint32_t id = lg_strings_append(seg, name, strlen(name));
    seg->endpoints[index].key = LG_ENDPOINT_KEY(id, LG_KIND_REQUEST, method);
    seg->tables->endpoints_used = index + 1;
    return index;
}

static void
add_stack(struct story *story)
{
    struct lg_segment *seg = &story->seg;
    uint32_t file = lg_strings_append(seg, "/srv/shop/shop.py", 17);
    uint32_t outer = lg_strings_append(seg, "report", 6);
    uint32_t inner = lg_strings_append(seg, "load_rows", 9);
    uint32_t frame = lg_frames_append(seg, file, outer, 31, 0);
    frame = lg_frames_append(seg, file, inner, 17, frame);
    story->stack = (uint32_t)seg->tables->stacks_used;
    seg->stacks[story->stack].hash = 0x5107;
    seg->stacks[story->stack].first_ns = START_NS + 50 * EVERY_NS;
    seg->stacks[story->stack].frame_depth = LG_PAIR(frame, 2);
    seg->stacks[story->stack].endpoint_flags = LG_PAIR(REPORT, 0);
    seg->tables->stacks_used = story->stack + 1;
}

static void
serve(struct story *story, uint32_t number)
{
    bool report = number % 50 == 49;
    uint32_t endpoint = report ? REPORT : ITEMS;
    uint64_t on_loop_ns = report ? BLOCK_NS : ITEM_NS;
    uint64_t end_ns = START_NS + (number + 1) * EVERY_NS;
    /* An item also waits for a database, 1 to 10 ms and without the loop. */
    uint64_t duration_ns = on_loop_ns + (report ? 0 : (number % 10 + 1) * LG_NS_PER_MS);
    if (report) {
        block(story, end_ns - on_loop_ns, on_loop_ns, number + 1, false);
    }
    lg_ring_push(&story->requests, end_ns, LG_TAG(LG_REC_REQUEST, 0, 0, endpoint), duration_ns,
                 on_loop_ns, on_loop_ns,
                 LG_PAIR(number + 1, 200u | (report ? LG_METHOD_POST : LG_METHOD_GET) << 16), 0);
    story->seg.endpoints[endpoint].response_sum_ns += duration_ns;
    lg_max_single(&story->seg.endpoints[endpoint].response_max_ns, duration_ns);
    lg_hist_add(&story->seg.hists[LG_HIST_RESPONSE(endpoint)], duration_ns);
    count_request(story, endpoint, end_ns, on_loop_ns);
    count_history(story, endpoint, end_ns, on_loop_ns);
}

/* One step, one iteration, one request. */
static void
count_request(struct story *story, uint32_t endpoint, uint64_t end_ns, uint64_t on_loop_ns)
{
    struct lg_segment *seg = &story->seg;
    struct lg_endpoint *e = &seg->endpoints[endpoint];
    struct lg_loop_entry *loop = &seg->loops[0];
    uint32_t lag_hist = LG_HIST_LAG(seg->endpoint_count, 0);
    e->status_2xx++;
    e->steps++;
    e->on_loop_sum_ns += on_loop_ns;
    lg_max_single(&e->step_max_ns, on_loop_ns);
    e->cpu_ns += on_loop_ns < BLOCK_NS ? on_loop_ns : 0;
    e->first_seen_ns = e->first_seen_ns != 0 ? e->first_seen_ns : end_ns;
    e->last_seen_ns = end_ns;
    e->requests++;
    loop->requests++;
    loop->iterations++;
    loop->steps++;
    loop->last_lag_ns = on_loop_ns;
    loop->sum_lag_ns += on_loop_ns;
    if (on_loop_ns > loop->max_lag_ns) {
        loop->max_lag_ns = on_loop_ns;
        loop->max_lag_at_ns = end_ns;
    }
    loop->poll_since_ns = end_ns;
    seg->self->requests++;
    lg_hist_add(&seg->hists[LG_HIST_ON_LOOP(endpoint)], on_loop_ns);
    lg_hist_add(&seg->hists[lag_hist], on_loop_ns);
}

static void
count_history(struct story *story, uint32_t endpoint, uint64_t end_ns, uint64_t on_loop_ns)
{
    struct lg_segment *seg = &story->seg;
    uint64_t second = end_ns / LG_NS_PER_S;
    uint64_t busy_us = on_loop_ns / LG_NS_PER_US;
    bool blocked = on_loop_ns > THRESHOLD_NS;
    struct lg_cell *cells = &seg->endpoint_history[(uint64_t)endpoint * LG_CELLS];
    add_cell(&cells[second % LG_CELLS_1S], second, busy_us, blocked);
    add_cell(&cells[LG_CELLS_1S + second / 10 % LG_CELLS_10S], second / 10, busy_us, blocked);
    struct lg_loop_cell *cell = &seg->loop_history[second % LG_LOOP_CELLS];
    if (LG_LO(cell->second_iterations) != second) {
        *cell = (struct lg_loop_cell){.second_iterations = LG_PAIR(second, 0)};
    }
    uint64_t max_us = LG_HI(cell->busy_us_max_lag_us);
    cell->second_iterations += LG_PAIR(0, 1);
    cell->busy_us_max_lag_us =
        LG_PAIR(LG_LO(cell->busy_us_max_lag_us) + busy_us, busy_us > max_us ? busy_us : max_us);
    cell->blocked_us_blocks += blocked ? LG_PAIR(busy_us, 1) : 0;
    cell->requests_open += 1;
    cell->cpu_us_gil_us += blocked ? 0 : busy_us;
    cell->io_us_gc_us += blocked ? busy_us : 0;
}

static void
add_cell(struct lg_cell *cell, uint64_t number, uint64_t busy_us, bool blocked)
{
    if (LG_LO(cell->second_requests) != number) {
        *cell = (struct lg_cell){.second_requests = LG_PAIR(number, 0)};
    }
    cell->second_requests += LG_PAIR(0, 1);
    cell->steps_busy_us += LG_PAIR(1, busy_us);
    cell->blocked_us_blocks += blocked ? LG_PAIR(busy_us, 1) : 0;
    if (busy_us > LG_LO(cell->max_step_us_waited)) {
        cell->max_step_us_waited = busy_us;
    }
}

/* A report reads a file on the loop: all of its time but 1 ms is io. */
static void
block(struct story *story, uint64_t start_ns, uint64_t duration_ns, uint32_t request, bool ongoing)
{
    struct lg_segment *seg = &story->seg;
    uint64_t ticket = seg->tables->stalls_head;
    struct lg_stall *stall = &seg->stalls[ticket];
    uint32_t flags = LG_STALL_WATCHED | (ongoing ? LG_STALL_ONGOING : 0);
    lg_seq_begin(&stall->seq);
    stall->ticket = ticket + 1;
    stall->info = LG_STALL_INFO(LG_STALL_STEP, LG_CAUSE_IO, flags, 0);
    stall->step = request;
    stall->start_ns = start_ns;
    stall->duration_ns = duration_ns;
    stall->threshold_ns = THRESHOLD_NS;
    stall->endpoint_holder = LG_PAIR(REPORT, 0);
    stall->request_task = LG_PAIR(request, LG_TASK_NUMBER_BIT | request);
    stall->parts_ns[LG_CAUSE_CPU] = LG_NS_PER_MS;
    stall->parts_ns[LG_CAUSE_IO] = duration_ns - LG_NS_PER_MS;
    stall->call_thread = LG_PAIR(story->call, LG_HI(seg->loops[0].kind_thread_name));
    stall->stack_holder_stack = LG_PAIR(story->stack, 0);
    stall->samples_tid = LG_PAIR(3, TID);
    stall->call_ns = duration_ns - LG_NS_PER_MS;
    stall->steps = 1;
    lg_seq_end(&stall->seq);
    seg->tables->stalls_head = ticket + 1;
    seg->self->stalls++;
    seg->self->stacks++;
    lg_ring_push(&story->watchdog, start_ns + THRESHOLD_NS,
                 LG_TAG(LG_REC_BLOCK_BEGIN, 0, 1, REPORT), ticket, 0, start_ns, request, 0);
    if (!ongoing) {
        lg_ring_push(&story->events, start_ns + duration_ns, LG_TAG(LG_REC_BLOCK_END, 0, 0, REPORT),
                     ticket, 0, start_ns, duration_ns, LG_STALL_STEP);
        count_block(story, start_ns, duration_ns);
    }
}

static void
count_block(struct story *story, uint64_t start_ns, uint64_t duration_ns)
{
    struct lg_endpoint *e = &story->seg.endpoints[REPORT];
    struct lg_loop_entry *loop = &story->seg.loops[0];
    struct lg_stack *stack = &story->seg.stacks[story->stack];
    e->blocked_ns += duration_ns;
    e->blocks++;
    e->cpu_ns += LG_NS_PER_MS;
    e->blocked_by_cause_ns[LG_CAUSE_CPU] += LG_NS_PER_MS;
    e->blocked_by_cause_ns[LG_CAUSE_IO] += duration_ns - LG_NS_PER_MS;
    loop->blocked_ns += duration_ns;
    loop->blocks++;
    loop->parts_ns[LG_CAUSE_CPU] += LG_NS_PER_MS;
    loop->parts_ns[LG_CAUSE_IO] += duration_ns - LG_NS_PER_MS;
    stack->last_ns = start_ns + duration_ns;
    stack->total_ns += duration_ns;
    lg_max_single(&stack->max_ns, duration_ns);
    stack->count++;
}

/* In the middle of a block, and of a record. */
static void
die(struct story *story)
{
    struct lg_segment *seg = &story->seg;
    struct lg_loop_entry *loop = &seg->loops[0];
    block(story, LAST_BLOCK_NS, DEATH_NS - LAST_BLOCK_NS, REQUESTS + 1, true);
    lg_seq_begin(&loop->seq);
    loop->state = LG_LOOP_STEP;
    loop->step = REQUESTS + 1;
    loop->step_start_ns = LAST_BLOCK_NS;
    loop->endpoint_task = LG_PAIR(REPORT, LG_TASK_NUMBER_BIT | (REQUESTS + 1));
    loop->request_tid = LG_PAIR(REQUESTS + 1, TID);
    lg_seq_end(&loop->seq);
    loop->awake_since_ns = LAST_BLOCK_NS;
    loop->open_requests = 1;
    loop->heartbeat_ns = DEATH_NS;
    loop->stall_ticket = seg->tables->stalls_head;
    loop->stall_since_ns = LAST_BLOCK_NS;
    loop->stall_step = REQUESTS + 1;
    loop->samples = 3;
    seg->endpoints[REPORT].in_flight_threshold_us = LG_PAIR(1, 0);
    *seg->anchor = (struct lg_anchor){
        .seq = 2,
        .mono_ns = DEATH_NS,
        .real_ns = START_REAL_NS + (DEATH_NS - START_NS),
        .boot_ns = DEATH_NS,
        .uncertainty_ns = 60,
    };
    seg->self->watchdog_ticks = (DEATH_NS - START_NS) / (10 * LG_NS_PER_MS);
    /* What lg_ring_push() has done by then: the odd sequence and two words. */
    struct lg_slot *slot = &story->requests.slots[REQUESTS];
    slot->seq = 2 * REQUESTS + 1;
    slot->time_ns = DEATH_NS;
    slot->tag = LG_TAG(LG_REC_REQUEST, 0, 0, ITEMS);
}

static int
save(const struct lg_segment *seg, const char *path)
{
    uint64_t nonce = UINT64_C(0x1CEB00DA);      /* outside the checksum */
    int err = 0;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        return -errno;
    }
    seg->header->nonce = nonce;
    for (size_t at = 0; at < seg->size && err == 0;) {
        ssize_t n = write(fd, (const uint8_t *)seg->base + at, seg->size - at);
        at += n > 0 ? (size_t)n : 0;
        err = n < 0 && errno != EINTR ? -errno : 0;
    }
    close(fd);
    return err;
}
