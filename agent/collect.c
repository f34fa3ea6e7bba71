/*
 * collect.c - see collect.h.
 */
#include "collect.h"

#include "../common/lg_clock.h"
#include "agent.h"
#include "pycompat.h"

static PyObject *callbacks(void);
static long number_of(PyObject *info, const char *name);

/* Pauses from here on are worth a record of their own. */
#define PAUSE_TOLD_NS LG_NS_PER_MS

void
lg_collect_install(struct lg_agent *agent)
{
    PyObject *list = callbacks();
    /* A forked child has the parent's list, with us in it. */
    bool on = list != NULL && agent->gc_callback != NULL &&
              (PySequence_Contains(list, agent->gc_callback) == 1 ||
               PyList_Append(list, agent->gc_callback) == 0);
    Py_XDECREF(list);
    PyErr_Clear();
    lg_agent_feature(agent, LG_FEATURE_GC, on, on ? "" : "gc.callbacks cannot be used");
}

void
lg_collect_uninstall(struct lg_agent *agent)
{
    struct lg_pending pending;
    lg_pending_save(&pending);
    PyObject *list = callbacks();
    if (list != NULL && agent->gc_callback != NULL) {
        PyObject *done = PyObject_CallMethod(list, "remove", "O", agent->gc_callback);
        Py_XDECREF(done);
    }
    Py_XDECREF(list);
    PyErr_Clear();                      /* someone else removed it: nothing to undo */
    lg_pending_restore(&pending);
}

void
lg_collect_event(struct lg_agent *agent, PyObject *phase, PyObject *info)
{
    if (agent->state != LG_AGENT_AWAKE || !PyUnicode_Check(phase) || !PyDict_Check(info)) {
        return;
    }
    struct lg_loop *loop = lg_loop_current();
    uint64_t now = lg_now_ns();
    if (PyUnicode_CompareWithASCIIString(phase, "start") == 0) {
        agent->gc_start_ns = now;
        /* Young collections are short: their wall time will do. */
        agent->gc_start_cpu_ns = number_of(info, "generation") >= 2 ? lg_thread_cpu_ns() : 0;
        return;
    }
    if (agent->gc_start_ns == 0) {
        return;                         /* we came in the middle */
    }
    uint64_t wall = now - agent->gc_start_ns;
    agent->gc_start_ns = 0;
    if (loop != NULL) {
        uint64_t cpu =
            agent->gc_start_cpu_ns != 0 ? lg_thread_cpu_ns() - agent->gc_start_cpu_ns : wall;
        loop->gc_ns += cpu < wall ? cpu : wall;
        lg_add_single(&loop->entry->gc_pauses, 1);
    }
    if (wall >= PAUSE_TOLD_NS) {
        lg_record_push(&agent->rec, LG_RING_EVENTS, now, LG_REC_GC_PAUSE, 0, 0,
                       (uint64_t)number_of(info, "generation"), wall,
                       (uint64_t)number_of(info, "collected"), loop != NULL ? loop->index : LG_NONE,
                       0);
        lg_add_single(&agent->rec.seg.self->gc_pauses, 1);
    }
}

/* New reference to gc.callbacks, or NULL with an exception set. */
static PyObject *
callbacks(void)
{
    PyObject *gc = PyImport_ImportModule("gc");
    PyObject *list = gc == NULL ? NULL : PyObject_GetAttrString(gc, "callbacks");
    Py_XDECREF(gc);
    if (list != NULL && !PyList_Check(list)) {
        Py_CLEAR(list);
    }
    return list;
}

static long
number_of(PyObject *info, const char *name)
{
    PyObject *value = PyDict_GetItemString(info, name);
    long n = value != NULL && PyLong_Check(value) ? PyLong_AsLong(value) : 0;
    return n < 0 ? 0 : n;
}
