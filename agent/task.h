/*
 * task.h - the task factory: a child task is charged to the request that made
 * it, a task of no request to its own name.
 *
 * Stands before the factory that was there and calls it with the wrapped
 * coroutine; unknown keyword arguments go on as they are. Under the GIL.
 */
#ifndef LG_AGENT_TASK_H
#define LG_AGENT_TASK_H

#include <Python.h>

#include <stdint.h>

struct lg_agent;
struct lg_loop;

/* Sets our factory on the loop, if it is not there. Leaves no exception. */
void lg_task_install(struct lg_agent *agent, PyObject *py_loop);
/* The same, for a loop that has been seen before. */
void lg_task_check(struct lg_agent *agent, struct lg_loop *loop);

/* Puts back what was there, where ours still stands. */
void lg_task_uninstall(struct lg_agent *agent, PyObject *py_loop);

/* The coroutine of a test, timed as a task of its own name, whatever made the
 * task that awaits it. New reference; `coro` itself when that cannot be. */
PyObject *lg_task_measure(struct lg_agent *agent, PyObject *coro);

/* Name of the task that now runs: LG_TASK_NUMBER_BIT | N for "Task-N", else a
 * string id, 0 when there is none. Leaves a pending exception as it was. */
uint32_t lg_task_name_now(struct lg_agent *agent, struct lg_loop *loop);

int lg_task_add_types(PyObject *module, struct lg_agent *agent);
void lg_task_clear(struct lg_agent *agent);

#endif
