/*
 * select.h - the edges of asyncio's poll where no slot of libc can be
 * replaced: stands around the loop's `_selector.select`.
 *
 * The second best: two calls of Python objects an iteration instead of none,
 * and the wait for the GIL after the poll is not seen as busy time. uvloop has
 * no selector; there iterations stay unknown, and the feature says so.
 */
#ifndef LG_AGENT_SELECT_H
#define LG_AGENT_SELECT_H

#include <Python.h>

#include <stdbool.h>

struct lg_agent;
struct lg_loop;

/* True when the loop's polls will come in. Leaves no exception. */
bool lg_select_install(struct lg_agent *agent, struct lg_loop *loop, PyObject *py_loop);
void lg_select_uninstall(struct lg_agent *agent, PyObject *py_loop);

int lg_select_add_types(PyObject *module, struct lg_agent *agent);

#endif
