/*
 * pool.h - the thread pool of sync endpoints: how many run, how many wait, how
 * long, for which endpoint; which threads are stuck.
 *
 * anyio.to_thread.run_sync is replaced (by the package, patches.py); it passes
 * its function through lg_pool_submit(), which gives back a callable that
 * measures: queue wait from submission to start, run time, and which endpoint
 * this thread serves meanwhile, so that whoever holds the GIL has a name.
 */
#ifndef LG_AGENT_POOL_H
#define LG_AGENT_POOL_H

#include <Python.h>

#include <stdint.h>

struct lg_agent;
struct lg_owner;
struct lg_pool_room;
struct lg_sampler;

/* 0 or -ENOMEM. With the segment; under the GIL. */
int lg_pool_open(struct lg_agent *agent);
void lg_pool_close(struct lg_agent *agent);

/* A callable that runs `func` in a pool thread, measured, charged to the
 * request that runs now. `limit`: tokens of its limiter, 0 = not known. New
 * reference; `func` itself when nothing can be measured. GIL. */
PyObject *lg_pool_submit(struct lg_agent *agent, PyObject *func, uint64_t limit);

/* `coro` awaits the call that lg_pool_submit() gave back as `op`: when it ends
 * before a thread took the call, that waits no more. New reference to `coro`,
 * whatever `op` is. GIL. */
PyObject *lg_pool_awaited(struct lg_agent *agent, PyObject *op, PyObject *coro);

/* Endpoint that the thread serves, LG_ENDPOINT_OTHER when none. Any thread. */
uint32_t lg_pool_endpoint_of(const struct lg_pool_room *room, uint64_t pthread_id);

/* The request that the calling pool thread serves, borrowed; NULL when none. GIL. */
struct lg_owner *lg_pool_owner_here(const struct lg_agent *agent);

/* Once a second, by the watchdog: threads that have run the same call for a
 * second and more, with their stacks, into POOL. */
void lg_pool_watch(struct lg_pool_room *room, struct lg_sampler *sampler, uint64_t now_ns);

int lg_pool_add_types(PyObject *module, struct lg_agent *agent);

#endif
