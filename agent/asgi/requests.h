/*
 * requests.h - the open requests, and the one that runs in the calling thread,
 * as tuples for requests.py:
 *
 *   (id, method, path, route or None, start in s, blocks, blocked ms)
 *
 * The clock is time.monotonic()'s. Under the GIL, any thread.
 */
#ifndef LG_AGENT_REQUESTS_H
#define LG_AGENT_REQUESTS_H

#include <Python.h>

struct lg_agent;

/* The request or websocket whose step runs on this thread's loop, or that this
 * pool thread serves; else None. New reference. */
PyObject *lg_requests_current(struct lg_agent *agent);

/* New list, oldest first, of all loops of the process. Only the one that runs
 * in the calling thread has its running step counted in. */
PyObject *lg_requests_open(struct lg_agent *agent);

#endif
