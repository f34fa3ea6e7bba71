/*
 * tasks_seen.c - see tasks_seen.h.
 */
#include "tasks_seen.h"

#include "agent.h"
#include "pycompat.h"

static PyObject *weak_set_data(PyObject *module, const char *name);

void
lg_tasks_seen_open(struct lg_agent *agent)
{
    PyObject *tasks = PyImport_ImportModule("asyncio.tasks");
    if (tasks != NULL && agent->all_tasks == NULL) {
        agent->all_tasks = weak_set_data(tasks, "_scheduled_tasks");    /* 3.12, 3.13 */
        if (agent->all_tasks == NULL) {
            agent->all_tasks = weak_set_data(tasks, "_all_tasks");      /* before */
        }
    }
    Py_XDECREF(tasks);
    PyErr_Clear();
}

/* The set of references inside a WeakSet. New reference or NULL. */
static PyObject *
weak_set_data(PyObject *module, const char *name)
{
    PyObject *weak = PyObject_GetAttrString(module, name);
    PyObject *data = weak != NULL ? PyObject_GetAttrString(weak, "data") : NULL;
    Py_XDECREF(weak);
    PyErr_Clear();
    if (data != NULL && !PySet_CheckExact(data)) {
        Py_CLEAR(data);
    }
    return data;
}

void
lg_tasks_seen(const struct lg_agent *agent, const struct lg_loop *loop)
{
    uint64_t tasks = LG_NONE;
    uint64_t ready = LG_NONE;
    /* The set is the process's: it speaks for a loop only while it is alone. */
    if (agent->all_tasks != NULL && agent->loops_used == 1) {
        tasks = (uint64_t)((PySetObject *)agent->all_tasks)->used;
    }
    if (loop->kind == LG_LOOP_ASYNCIO && loop->ready != NULL) {
        ready = (uint64_t)((PyVarObject *)loop->ready)->ob_size;
    }
    lg_store_relaxed(&loop->entry->tasks, tasks);
    lg_store_relaxed(&loop->entry->ready_length, ready);
}
