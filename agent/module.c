/*
 * module.c - the extension loopguard._agent: arguments in, exceptions out.
 *
 * No logic here. Holds the one agent of the process; a second interpreter of
 * the process may not have it (its loops would share tables without a lock).
 */
#include <Python.h>

#include <pthread.h>

#include "../common/lg_clock.h"
#include "agent.h"
#include "asgi/answer.h"
#include "asgi/asgi.h"
#include "slices/audit.h"
#include "callwatch/callwatch.h"
#include "collect.h"
#include "names.h"
#include "pool.h"
#include "pycompat.h"
#include "asgi/requests.h"
#include "select.h"
#include "slices/slice.h"
#include "step.h"
#include "task.h"
#include "tell.h"

static struct lg_agent agent = {.state = LG_AGENT_IDLE, .off_fd = -1, .paused_ns = LG_NONE};
static struct lg_names names;

/* ---- functions --------------------------------------------------------- */

static PyObject *
agent_start(PyObject *module, PyObject *settings)
{
    (void)module;
    if (lg_agent_start(&agent, settings) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
agent_stop(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    lg_agent_stop(&agent, false);
    Py_RETURN_NONE;
}

static PyObject *
agent_at_exit(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    lg_agent_stop(&agent, true);
    Py_RETURN_NONE;
}

static PyObject *
agent_off(PyObject *module, PyObject *reason)
{
    (void)module;
    const char *text = PyUnicode_AsUTF8(reason);        /* borrowed from reason */
    if (text == NULL) {
        return NULL;
    }
    lg_agent_off(&agent, text);
    Py_RETURN_NONE;
}

static PyObject *
agent_status(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return lg_agent_status(&agent);
}

static PyObject *
agent_pause(PyObject *module, PyObject *paused)
{
    (void)module;
    int truth = PyObject_IsTrue(paused);
    return truth < 0 ? NULL : PyBool_FromLong(lg_agent_pause(&agent, truth == 1));
}

static PyObject *
agent_current_request(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return lg_requests_current(&agent);
}

static PyObject *
agent_open_requests(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return lg_requests_open(&agent);
}

static PyObject *
agent_wrap(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *app;
    PyObject *rules = Py_None;
    if (!PyArg_ParseTuple(args, "O|O:wrap", &app, &rules)) {
        return NULL;
    }
    return lg_asgi_wrap(&agent, app, rules);
}

static PyObject *
agent_watch_loop(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyBool_FromLong(lg_loop_here(&agent) != NULL);
}

static PyObject *
agent_expect_loop(PyObject *module, PyObject *loop)
{
    (void)module;
    return PyBool_FromLong(lg_loop_expect(&agent, loop));
}

static PyObject *
agent_measure(PyObject *module, PyObject *coro)
{
    (void)module;
    return lg_task_measure(&agent, coro);
}

static PyObject *
agent_activity(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromUnsignedLongLong(lg_agent_activity(&agent));
}

static PyObject *
agent_clock_ns(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromUnsignedLongLong(lg_now_ns());
}

static PyObject *
agent_read_lag(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    uint64_t lag_ns;
    if (!lg_loop_read_lag(&lag_ns)) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLongLong(lag_ns);
}

static PyObject *
agent_route_handle(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *original;
    const char *kind;
    if (!PyArg_ParseTuple(args, "Os:route_handle", &original, &kind)) {
        return NULL;
    }
    bool is_mount = strcmp(kind, "mount") == 0;
    if (!is_mount && strcmp(kind, "route") != 0) {
        return PyErr_Format(PyExc_ValueError, "kind must be 'route' or 'mount', not '%.50s'", kind);
    }
    return lg_route_handle(&agent, original, is_mount);
}

static PyObject *
agent_set_route_namer(PyObject *module, PyObject *namer)
{
    (void)module;
    if (lg_route_set_namer(&agent, namer) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
agent_set_listener(PyObject *module, PyObject *listener)
{
    (void)module;
    if (lg_tell_set_listener(&agent, listener) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
agent_set_threshold(PyObject *module, PyObject *ns)
{
    (void)module;
    unsigned long long wanted = PyLong_AsUnsignedLongLong(ns);
    if (wanted == (unsigned long long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(lg_agent_set_threshold(&agent, wanted));
}

static PyObject *
agent_pool_submit(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *func;
    unsigned long long limit;
    if (!PyArg_ParseTuple(args, "OK:pool_submit", &func, &limit)) {
        return NULL;
    }
    return lg_pool_submit(&agent, func, limit);
}

static PyObject *
agent_slice_arm(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"threshold_ns",
                               "sampling",
                               "arm_after_ns",
                               "interval_ns",
                               "idle_ns",
                               "max_samples",
                               "sample_depth",
                               "event_depth",
                               "receive",
                               "capture",
                               "violation",
                               "raising",
                               NULL};
    (void)module;
    struct lg_slice_options o;
    unsigned long long threshold, arm_after, interval, idle;
    int sampling;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$KpKKKIIIOOOO:slice_arm", keywords, &threshold,
                                     &sampling, &arm_after, &interval, &idle, &o.max_samples,
                                     &o.sample_depth, &o.event_depth, &o.receive, &o.capture,
                                     &o.violation, &o.raising)) {
        return NULL;
    }
    o.threshold_ns = threshold;
    o.sampling = sampling;
    o.arm_after_ns = arm_after;
    o.interval_ns = interval;
    o.idle_ns = idle;
    if (lg_slice_arm(&agent, &o) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
agent_slice_disarm(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    lg_slice_disarm(&agent);
    Py_RETURN_NONE;
}

static PyObject *
agent_slice_is_armed(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyBool_FromLong(agent.slices != NULL);
}

static PyObject *
agent_slice_reset(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    lg_slice_reset(&agent);
    Py_RETURN_NONE;
}

static PyObject *
agent_slice_check(PyObject *module, PyObject *since_ns)
{
    (void)module;
    unsigned long long since = PyLong_AsUnsignedLongLong(since_ns);
    if (PyErr_Occurred() || lg_slice_check(&agent, since) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
agent_audit_watch(PyObject *module, PyObject *weights)
{
    (void)module;
    if (lg_audit_watch(&agent, weights) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
agent_audit_wrap(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *function;
    PyObject *name;
    int weight;
    if (!PyArg_ParseTuple(args, "OUi:audit_wrap", &function, &name, &weight)) {
        return NULL;
    }
    return lg_audit_wrap(&agent, function, name, weight);
}

static PyObject *
agent_pool_awaited(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *call;
    PyObject *coro;
    if (!PyArg_ParseTuple(args, "OO:pool_awaited", &call, &coro)) {
        return NULL;
    }
    return lg_pool_awaited(&agent, call, coro);
}

static PyObject *
agent_gc_event(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (nargs == 2) {
        lg_collect_event(&agent, args[0], args[1]);
    }
    Py_RETURN_NONE;
}

/* ---- module ------------------------------------------------------------ */

static PyMethodDef methods[] = {
    {"start", agent_start, METH_O,
     PyDoc_STR("start(settings) -> None. Arms the agent; a loop that runs wakes it.")},
    {"stop", agent_stop, METH_NOARGS, PyDoc_STR("stop() -> None. Undoes everything.")},
    {"off", agent_off, METH_O,
     PyDoc_STR("off(reason) -> None. Switched off; the viewer shows the reason.")},
    {"status", agent_status, METH_NOARGS, PyDoc_STR("status() -> dict.")},
    {"wrap", agent_wrap, METH_VARARGS,
     PyDoc_STR("wrap(app, rules=None) -> the application, measured; rules: see answers.py.")},
    {"pause", agent_pause, METH_O,
     PyDoc_STR("pause(flag) -> bool. Requests that begin pass bare, or no more; what was.")},
    {"current_request", agent_current_request, METH_NOARGS,
     PyDoc_STR("current_request() -> tuple of the request that runs in this thread, or None.")},
    {"open_requests", agent_open_requests, METH_NOARGS,
     PyDoc_STR("open_requests() -> list of such tuples, oldest first.")},
    {"watch_loop", agent_watch_loop, METH_NOARGS,
     PyDoc_STR("watch_loop() -> bool. Registers the loop that runs in this thread.")},
    {"read_lag", agent_read_lag, METH_NOARGS,
     PyDoc_STR("read_lag() -> int | None. Longest stretch in ns that the loop running in this\n"
               "thread did not poll since the last call; None where that is not known.")},
    {"expect_loop", agent_expect_loop, METH_O,
     PyDoc_STR("expect_loop(loop) -> bool. The loop was made, or is about to run in this thread; "
               "True when it is registered.")},
    {"measure", agent_measure, METH_O,
     PyDoc_STR("measure(coro) -> the coroutine, timed as a task of its own name.")},
    {"activity", agent_activity, METH_NOARGS,
     PyDoc_STR("activity() -> int. Steps and iterations measured so far.")},
    {"clock_ns", agent_clock_ns, METH_NOARGS,
     PyDoc_STR("clock_ns() -> int. CLOCK_MONOTONIC, which no test freezes.")},
    {"route_handle", agent_route_handle, METH_VARARGS,
     PyDoc_STR("route_handle(original, kind) -> stand-in for a route's `handle`.")},
    {"set_route_namer", agent_set_route_namer, METH_O,
     PyDoc_STR("set_route_namer(namer) -> None. namer(route, scope, prefix) -> template.")},
    {"set_listener", agent_set_listener, METH_O,
     PyDoc_STR("set_listener(f) -> None. f(info) is called after each stall; None removes it.")},
    {"set_threshold", agent_set_threshold, METH_O,
     PyDoc_STR("set_threshold(ns) -> int. Moves the threshold of all loops; the one before.")},
    {"pool_submit", agent_pool_submit, METH_VARARGS,
     PyDoc_STR("pool_submit(func, limit) -> callable that measures func in a pool thread.")},
    {"pool_awaited", agent_pool_awaited, METH_VARARGS,
     PyDoc_STR("pool_awaited(call, coro) -> coro, by whose end a call not begun waits no more.")},
    {"slice_arm", (PyCFunction)(void *)agent_slice_arm, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("slice_arm(*, threshold_ns, sampling, arm_after_ns, interval_ns, idle_ns,\n"
               "max_samples, sample_depth, event_depth, receive, capture, violation, raising)\n"
               "-> None. Slices are told to `receive` from here on; see slice.h.")},
    {"slice_disarm", agent_slice_disarm, METH_NOARGS,
     PyDoc_STR("slice_disarm() -> None. Tells what this thread's slice holds; then none is.")},
    {"slice_is_armed", agent_slice_is_armed, METH_NOARGS, PyDoc_STR("slice_is_armed() -> bool.")},
    {"slice_reset", agent_slice_reset, METH_NOARGS,
     PyDoc_STR("slice_reset() -> None. Forgets the calls of this thread's slice.")},
    {"slice_check", agent_slice_check, METH_O,
     PyDoc_STR("slice_check(since_ns) -> None. Raises the violation if the hooks saw a blocking\n"
               "call of this slice since then, of the threshold's length.")},
    {"audit_watch", agent_audit_watch, METH_O,
     PyDoc_STR("audit_watch(weights) -> None. Names of audit events that are blocking calls.")},
    {"audit_wrap", agent_audit_wrap, METH_VARARGS,
     PyDoc_STR("audit_wrap(function, name, weight) -> the function, told as a blocking call.")},
    {"_at_exit", agent_at_exit, METH_NOARGS, NULL},
    {"_gc_event", (PyCFunction)(void *)agent_gc_event, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static void
forked_child(void)
{
    lg_agent_forked(&agent);
}

/* `async def` of our signature: what inspect sees when it looks at an Asgi. */
static PyObject *
make_like_function(const char *source)
{
    PyObject *globals = Py_BuildValue("{s:s}", "__name__", "loopguard._agent");
    if (globals == NULL) {
        return NULL;
    }
    PyObject *builtins = PyEval_GetBuiltins();          /* borrowed */
    PyObject *result = NULL;
    if (PyDict_SetItemString(globals, "__builtins__", builtins) == 0) {
        PyObject *done = PyRun_String(source, Py_file_input, globals, globals);
        Py_XDECREF(done);
        if (done != NULL) {
            result = Py_XNewRef(PyDict_GetItemString(globals, "like"));
        }
    }
    Py_DECREF(globals);
    return result;
}

/* asyncio.coroutines._is_coroutine: the only mark that 3.9 looks for. */
static int
mark_coroutine_function(PyObject *function)
{
#if PY_VERSION_HEX >= 0x030A0000
    (void)function;
    return 0;
#else
    PyObject *coroutines = PyImport_ImportModule("asyncio.coroutines");
    PyObject *mark =
        coroutines != NULL ? PyObject_GetAttrString(coroutines, "_is_coroutine") : NULL;
    int err = mark != NULL ? PyObject_SetAttrString(function, "_is_coroutine", mark) : -1;
    Py_XDECREF(mark);
    Py_XDECREF(coroutines);
    return err;
#endif
}

static int
register_at_exit(PyObject *module)
{
    PyObject *atexit = PyImport_ImportModule("atexit");
    agent.at_exit = PyObject_GetAttrString(module, "_at_exit");
    PyObject *done = atexit != NULL && agent.at_exit != NULL
                         ? PyObject_CallMethod(atexit, "register", "O", agent.at_exit)
                         : NULL;
    Py_XDECREF(atexit);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static int
exec_module(PyObject *module)
{
    static bool taken;
    if (taken) {
        PyErr_SetString(PyExc_ImportError,
                        "loopguard._agent is already loaded in this process; a second "
                        "interpreter cannot have it");
        return -1;
    }
    agent.names = &names;
    agent.like_function = make_like_function("async def like(scope, receive, send): ...\n");
#if PY_VERSION_HEX < 0x030A0000
    /* There inspect believes nobody but real functions and their methods. */
    agent.like_call = make_like_function(
        "async def like(self, scope, receive, send):\n"
        "    return await self(scope, receive, send)\n");
    if (agent.like_call == NULL) {
        return -1;
    }
#endif
    if (lg_names_init(&names) < 0 || agent.like_function == NULL ||
        mark_coroutine_function(agent.like_function) < 0 || lg_step_add_types(module, &agent) < 0 ||
        lg_asgi_add_types(module, &agent) < 0 || lg_task_add_types(module, &agent) < 0 ||
        lg_route_add_types(module, &agent) < 0 || lg_pool_add_types(module, &agent) < 0 ||
        lg_select_add_types(module, &agent) < 0 || lg_callwatch_add_types(module) < 0 ||
        lg_answer_add_types(module, &agent) < 0 || lg_audit_add_types(module, &agent) < 0) {
        return -1;
    }
    if (PyModule_AddObjectRef(module, "Asgi", agent.asgi_type) < 0 ||
        PyModule_AddObjectRef(module, "TaskFactory", agent.task_factory_type) < 0) {
        return -1;
    }
    agent.gc_callback = PyObject_GetAttrString(module, "_gc_event");
    if (agent.gc_callback == NULL || register_at_exit(module) < 0) {
        return -1;
    }
    if (pthread_atfork(NULL, NULL, forked_child) != 0) {
        PyErr_NoMemory();
        return -1;
    }
    taken = true;
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, exec_module},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "loopguard._agent",
    .m_doc = PyDoc_STR("The agent of loopguard: measures event loops from within."),
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__agent(void);

PyMODINIT_FUNC
PyInit__agent(void)
{
    return PyModuleDef_Init(&definition);
}
