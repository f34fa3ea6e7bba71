/*
 * sample.h - one look of the watchdog at a stuck thread: stack, call, holder
 * of the GIL, clocks. No GIL, nothing of Python is called; every read of the
 * interpreter's memory goes through pystack.h and cannot fault.
 */
#ifndef LG_AGENT_SAMPLE_H
#define LG_AGENT_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include "../agent.h"
#include "stall.h"

#define LG_BRIEF_STACKS 4u

/* What was seen during one stall so far; owned by the watchdog, one a loop. */
struct lg_watch {
    bool active;
    struct lg_stall_key key;
    uint64_t start_ns;
    uint64_t last_ns;                   /* previous sample */
    struct lg_stall_key base_key;       /* what ran when the clocks below were read first */
    uint64_t base_ns;
    struct lg_stall_key delay_key;      /* what ran when run_delay_ns was read first */
    uint64_t cpu_ns;                    /* thread clocks at the previous sample */
    uint64_t run_delay_ns;
    struct lg_sums sums;
    uint64_t throttled;                 /* cgroup periods throttled before it began */
    uint64_t throttled_first;           /* and before the loop was known */
    uint64_t created_ns;                /* of the loop, which may follow another in its thread */
    int throttled_fd;                   /* of cgroup.h, -1 = none */
    int schedstat_fd;                   /* of tid below, -1 = none */
    int syscall_fd;
    int32_t tid;
    /* The steps of one request (or task) that were long enough to count towards a
     * cumulative window, seen in passing: what a thousand cuts look like. */
    struct {
        uint32_t endpoint;
        uint32_t request_id;
        uint64_t at_ns;
        uint32_t count[LG_BRIEF_STACKS];
        uint32_t best;                  /* seen most often, then the deepest */
        struct lg_pystack_sample frames[LG_BRIEF_STACKS];
    } brief;
    /* Stacks seen, with how often; the most frequent one is the stall's. */
    struct {
        uint32_t stack;
        uint32_t count;
        char name[128];                 /* function of the callback, for gaps */
    } seen[4];
};

struct lg_sampler;

struct lg_sampler *lg_sampler_new(struct lg_agent *agent);
void lg_sampler_free(struct lg_sampler *sampler);

/* Takes one sample of a stall in progress into its twin: stack, call, holder,
 * parts so far, cause so far. `state->endpoint` may become the callback's or
 * the GIL holder's. */
void lg_sample(struct lg_sampler *sampler, struct lg_loop *loop, struct lg_watch *watch,
               struct lg_stall_state *state, uint64_t now_ns);

/* Interns frames that were captured elsewhere; returns the stack id. `loop`:
 * whose thread it was, or NULL; then `name` (not NULL) becomes the function
 * that the loop called, "" when it cannot be told. */
uint32_t lg_sample_intern(struct lg_sampler *sampler, const struct lg_pystack_sample *frames,
                          uint32_t endpoint, uint64_t now_ns, const struct lg_loop *loop,
                          char *name, size_t size);

/* Takes the stack of a loop's step that is no stall yet; raw, not interned.
 * False when it could not be had. */
bool lg_sample_brief(struct lg_sampler *sampler, struct lg_loop *loop,
                     struct lg_pystack_sample *out);

/* How many frames both have, from the outermost on: what runs the loop. */
uint32_t lg_sample_common(const struct lg_pystack_sample *a, const struct lg_pystack_sample *b);

/* A file of an event loop's own. */
bool lg_sample_is_machinery(const char *file);

/* Is the loop's thread still in the loop's run_forever()? True where it cannot
 * be told. */
bool lg_sample_in_loop(struct lg_sampler *sampler, const struct lg_loop *loop);

/* Stack of another thread, known by its thread state only, as part of an
 * endpoint; 0 when it cannot be had. */
uint32_t lg_sample_thread(struct lg_sampler *sampler, uint64_t tstate, uint32_t endpoint,
                          uint64_t now_ns);

/* Brings the baselines of a loop's thread up to date: its CPU clock and its
 * calls, a microsecond. */
void lg_sample_baseline(struct lg_loop *loop, struct lg_watch *watch);
/* And those that the kernel writes as text, tens of microseconds: only for a
 * step that may become a stall. */
void lg_sample_baseline_delay(struct lg_watch *watch);

/* Cgroup periods throttled since the loop is known, into its entry. Once a
 * second. */
void lg_sample_throttled(const struct lg_loop *loop, struct lg_watch *watch);

/* Opens and closes a watch's descriptors. Begins anew with another loop. */
void lg_watch_begin(struct lg_watch *watch, struct lg_loop *loop);
void lg_watch_end(struct lg_watch *watch);

#endif
