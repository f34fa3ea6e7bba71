/*
 * step.h - the timed coroutine: stands around an application's coroutine and
 * measures each of its steps, that is each stretch from "the loop runs it" to
 * "it waits, returns or raises".
 *
 * To everyone else it is the coroutine: send, throw, close, await, and every
 * other attribute are the inner one's; nothing it returns or raises is
 * changed, no traceback frame is added. Under the GIL.
 */
#ifndef LG_AGENT_STEP_H
#define LG_AGENT_STEP_H

#include <Python.h>

#include "agent.h"
#include "owner.h"

/* Stands around `inner` (stolen), charging `owner` (a new reference is taken).
 * `scope`: the request's own dict for its outermost coroutine, else NULL. New
 * reference, or NULL with MemoryError: `inner` is then released. */
PyObject *lg_step_wrap(struct lg_agent *agent, PyObject *inner, struct lg_owner *owner,
                       PyObject *scope);

/* Adds the type to the module. */
int lg_step_add_types(PyObject *module, struct lg_agent *agent);
void lg_step_trim(void);

#endif
