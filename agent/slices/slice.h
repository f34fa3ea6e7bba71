/*
 * slice.h - one uninterrupted run on an event loop, with the blocking calls in
 * it: a step of a task, or the stretch between two edges that is no step
 * (reader callbacks, timers, tasks of nobody).
 *
 * For loopguard.blocking. A slice begins where step.c and the edges of loop.c
 * say so, collects the audited calls of its thread (audit.h), and when it is
 * over, is told to Python on its own thread: if it held such a call, or was
 * longer than the threshold. A stretch that ends at the poll is told from
 * there; the GIL is taken for it only when there is something to tell.
 *
 * Not armed, `agent->slices` is NULL and the callers do no more than look.
 * Rooms live as long as the process, one for each place of a loop: whoever
 * comes late, without the GIL, writes into memory that is still there.
 *
 * Python code that we call (the receiver, the providers of context) may do
 * anything, also disarm us or stop the agent. What it calls is never recorded;
 * what it raises is dropped, but for what ends a program.
 */
#ifndef LG_AGENT_SLICE_H
#define LG_AGENT_SLICE_H

#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

#include "../../common/lg_layout.h"

struct lg_agent;
struct lg_loop;
struct lg_owner;
struct lg_sampler;
struct lg_slices;

#define LG_SLICE_EVENTS 50              /* kept of one slice */

struct lg_slice_options {
    uint64_t threshold_ns;
    bool sampling;
    uint64_t arm_after_ns;              /* age from which on stacks are sampled */
    uint64_t interval_ns;
    uint64_t idle_ns;                   /* first look at a slice, at the latest */
    uint32_t max_samples;
    uint32_t sample_depth;
    uint32_t event_depth;
    /* Borrowed; None = nobody. receive(elapsed_ns, threshold_ns, events,
     * contexts, samples, blocked_ns, request) -> None. capture() -> dict | None
     * at a slice's start. violation(elapsed_ns, threshold_ns, events) -> the
     * exception. `raising` is a context variable, true where one is wanted. */
    PyObject *receive;
    PyObject *capture;
    PyObject *violation;
    PyObject *raising;
};

/* ---- on and off; GIL ----------------------------------------------------- */

/* Slices begin from here on, on every loop that the agent knows. Called again
 * it changes the options. 0, or -1 with MemoryError. */
int lg_slice_arm(struct lg_agent *agent, const struct lg_slice_options *options);

/* Tells what this thread's slice holds already, and ends all. */
void lg_slice_disarm(struct lg_agent *agent);

/* The agent stops, or this is the child of a fork: nothing more is told. */
void lg_slice_stop(struct lg_agent *agent);
void lg_slice_forked(struct lg_agent *agent);

/* Forgets the calls of the slice that runs in this thread. */
void lg_slice_reset(struct lg_agent *agent);

/* A loop came to its place, or left it. */
void lg_slice_loop_new(struct lg_loop *loop);
void lg_slice_loop_gone(struct lg_loop *loop);

/* This thread leaves run_forever(), or enters it anew: what is collected is
 * told now. */
void lg_slice_left(struct lg_agent *agent);

/* ---- edges; only where agent->slices is not NULL -------------------------- */

/* A step of `owner` begins; what was before it ended at `now_ns`. Returns the
 * time at which it begins, after our Python code; 0: the agent was stopped
 * by that. `*token` is for lg_slice_leave(). GIL. */
uint64_t lg_slice_enter(struct lg_loop *loop, struct lg_owner *owner, uint64_t now_ns,
                        uint64_t *token);

/* It ended. True: an exception is set that the step is to raise; never when
 * one was pending. `loop` may be closed afterwards. GIL. */
bool lg_slice_leave(struct lg_loop *loop, uint64_t token, uint64_t now_ns, bool may_raise);

/* Around the loop's poll; without the GIL, or with it. */
void lg_slice_poll_enter(struct lg_loop *loop, uint64_t now_ns);
void lg_slice_poll_leave(struct lg_loop *loop, uint64_t now_ns);

/* What charge.c found out about a stretch of the slice that ends. */
void lg_slice_parts(struct lg_loop *loop, uint64_t wall_ns,
                    const uint64_t parts_ns[LG_CAUSE_COUNT]);

/* ---- calls; GIL, on the loop's thread ------------------------------------- */

/* A slice runs in this thread and is ours to write into. */
bool lg_slice_is_open(const struct lg_loop *loop);

/* A blocking call is about to be made. 0, or -1 with the exception that is to
 * be raised instead. `*token` for lg_slice_took(), 0 = not kept. */
int lg_slice_call(struct lg_loop *loop, PyObject *name, PyObject *args, int weight,
                  uint64_t *token);

/* It took that long, by the clock. */
void lg_slice_took(struct lg_loop *loop, uint64_t token, uint64_t duration_ns);

/* The block of code that began at `since_ns` and forbids blocking calls ends
 * here, within a slice: -1 with the exception when the hooks saw one in it of
 * the threshold's length. */
int lg_slice_check(struct lg_agent *agent, uint64_t since_ns);

/* ---- the watchdog --------------------------------------------------------- */

/* Samples the stack of a slice that is old enough. */
void lg_slice_watch(struct lg_sampler *sampler, struct lg_loop *loop, uint64_t now_ns);

/* `tick_ns`, or the shorter one that the sampling needs. */
uint64_t lg_slice_tick_ns(const struct lg_agent *agent, uint64_t tick_ns, bool quiet);

#endif
