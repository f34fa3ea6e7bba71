/*
 * task.c - the task factory.
 */
#include "task.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "../common/lg_clock.h"
#include "agent.h"
#include "names.h"
#include "pycompat.h"
#include "step.h"

struct factory {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *previous;                 /* what stood there, or NULL */
    struct lg_agent *agent;
};

/* Unowned tasks by the code of their coroutine: one record for all of them. */
struct lg_task_slot {
    PyObject *code;                     /* strong; NULL = free */
    struct lg_owner *owner;             /* NULL: a server's own task, left alone */
};

#define TASK_SLOTS 256u                 /* a power of two */
#define TASK_SLOTS_USED_MAX 192u

static PyObject *factory_call(PyObject *op, PyObject *const *args, size_t nargsf,
                              PyObject *kwnames);
static struct lg_owner *find_owner(struct lg_agent *agent, PyObject *coro);
static struct lg_owner *owner_of_code(struct lg_agent *agent, PyObject *coro, PyObject *code);
static bool is_server_code(PyObject *code);
static struct lg_owner *new_task_owner(struct lg_agent *agent, PyObject *coro);
static PyObject *make_task(struct lg_agent *agent, PyObject *loop, PyObject *coro,
                           PyObject *const *kwvalues, PyObject *kwnames);
static bool is_ours(struct lg_agent *agent, PyObject *factory);

/* ---- on and off -------------------------------------------------------- */

void
lg_task_install(struct lg_agent *agent, PyObject *py_loop)
{
    if (!agent->settings.config.task_factory) {
        lg_agent_feature(agent, LG_FEATURE_TASKS, false, "switched off: option task_factory");
        return;
    }
    struct lg_pending pending;
    lg_pending_save(&pending);
    PyObject *present = PyObject_CallMethodNoArgs(py_loop, agent->names->get_task_factory);
    if (present != NULL && !is_ours(agent, present)) {
        struct factory *self =
            PyObject_GC_New(struct factory, (PyTypeObject *)agent->task_factory_type);
        if (self != NULL) {
            self->vectorcall = factory_call;
            self->previous = present == Py_None ? NULL : Py_NewRef(present);
            self->agent = agent;
            PyObject_GC_Track(self);
            PyObject *done = PyObject_CallMethodOneArg(py_loop, agent->names->set_task_factory,
                                                       (PyObject *)self);
            Py_XDECREF(done);
            Py_DECREF(self);
        }
    }
    Py_XDECREF(present);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        lg_agent_feature(agent, LG_FEATURE_TASKS, false, "the loop takes no task factory");
    }
    else {
        lg_agent_feature(agent, LG_FEATURE_TASKS, true, "");
    }
    lg_pending_restore(&pending);
}

void
lg_task_uninstall(struct lg_agent *agent, PyObject *py_loop)
{
    struct lg_pending pending;
    lg_pending_save(&pending);
    PyObject *present = PyObject_CallMethodNoArgs(py_loop, agent->names->get_task_factory);
    if (present != NULL && is_ours(agent, present)) {
        PyObject *previous = ((struct factory *)present)->previous;
        PyObject *done = PyObject_CallMethodOneArg(py_loop, agent->names->set_task_factory,
                                                   previous != NULL ? previous : Py_None);
        Py_XDECREF(done);
    }
    Py_XDECREF(present);
    PyErr_Clear();                      /* a closed loop has none: nothing to undo */
    lg_pending_restore(&pending);
}

void
lg_task_check(struct lg_agent *agent, struct lg_loop *loop)
{
    PyObject *py_loop = lg_loop_object(loop);
    if (py_loop != NULL) {
        lg_task_install(agent, py_loop);
        Py_DECREF(py_loop);
    }
}

static bool
is_ours(struct lg_agent *agent, PyObject *factory)
{
    return Py_TYPE(factory) == (PyTypeObject *)agent->task_factory_type;
}

/* ---- making a task ----------------------------------------------------- */

static PyObject *
factory_call(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct factory *self = (struct factory *)op;
    struct lg_agent *agent = self->agent;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    if (nargs != 2) {
        PyErr_Format(PyExc_TypeError, "a task factory takes (loop, coro), %zd arguments given",
                     nargs);
        return NULL;
    }
    PyObject *coro = args[1];
    PyObject *wrapped = NULL;
    if (agent->state == LG_AGENT_AWAKE && PyCoro_CheckExact(coro)) {
        struct lg_owner *owner = find_owner(agent, coro);
        if (owner != NULL) {
            wrapped = lg_step_wrap(agent, Py_NewRef(coro), owner, NULL);
            if (wrapped == NULL) {
                PyErr_Clear();          /* no memory for ours: theirs goes on bare */
            }
        }
    }
    if (wrapped != NULL) {
        coro = wrapped;
    }
    PyObject *task;
    if (self->previous != NULL) {
        Py_ssize_t nkw = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
        PyObject *few[8];
        PyObject **all = nkw + 2 <= 8 ? few : PyMem_Malloc((size_t)(nkw + 2) * sizeof(*all));
        if (all == NULL) {
            task = PyErr_NoMemory();
        }
        else {
            all[0] = args[0];
            all[1] = coro;
            memcpy(all + 2, args + 2, (size_t)nkw * sizeof(*all));
            task = PyObject_Vectorcall(self->previous, all, 2, kwnames);
            if (all != few) {
                PyMem_Free(all);
            }
        }
    }
    else {
        task = make_task(agent, args[0], coro, args + 2, kwnames);
    }
    Py_XDECREF(wrapped);
    return task;
}

/* asyncio.Task(coro, **kwargs, loop=loop), as the loops do without a factory. */
static PyObject *
make_task(struct lg_agent *agent, PyObject *loop, PyObject *coro, PyObject *const *kwvalues,
          PyObject *kwnames)
{
    Py_ssize_t nkw = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    PyObject *args[10];
    if (nkw > 8) {
        PyErr_SetString(PyExc_TypeError, "too many keyword arguments for a task");
        return NULL;
    }
    PyObject *names = PyTuple_New(nkw + 1);
    if (names == NULL) {
        return NULL;
    }
    args[0] = coro;
    for (Py_ssize_t i = 0; i < nkw; i++) {
        args[1 + i] = kwvalues[i];
        PyTuple_SET_ITEM(names, i, Py_NewRef(PyTuple_GET_ITEM(kwnames, i)));
    }
    args[1 + nkw] = loop;
    PyTuple_SET_ITEM(names, nkw, Py_NewRef(agent->names->loop));
    PyObject *task = PyObject_Vectorcall(agent->task_class, args, 1, names);
    Py_DECREF(names);
    return task;
}

PyObject *
lg_task_measure(struct lg_agent *agent, PyObject *coro)
{
    PyObject *timed = NULL;
    if (agent->state == LG_AGENT_AWAKE && PyCoro_CheckExact(coro)) {
        struct lg_owner *owner = new_task_owner(agent, coro);
        if (owner != NULL) {
            timed = lg_step_wrap(agent, Py_NewRef(coro), owner, NULL);
            lg_owner_unref(owner);
        }
        if (timed == NULL) {
            PyErr_Clear();
        }
    }
    return timed != NULL ? timed : Py_NewRef(coro);
}

/* ---- whose task -------------------------------------------------------- */

/* Borrowed; NULL: leave this coroutine alone. */
static struct lg_owner *
find_owner(struct lg_agent *agent, PyObject *coro)
{
    struct lg_loop *loop = lg_loop_current();
    struct lg_owner *running = loop != NULL ? loop->running : NULL;
    if (running != NULL &&
        (running->kind == LG_KIND_REQUEST || running->kind == LG_KIND_WEBSOCKET)) {
        return running;
    }
    if (agent->paused) {
        return NULL;
    }
    PyObject *code = lg_coro_code(coro);
    return code == NULL ? NULL : owner_of_code(agent, coro, code);
}

static struct lg_owner *
owner_of_code(struct lg_agent *agent, PyObject *coro, PyObject *code)
{
    if (agent->task_slots == NULL) {
        agent->task_slots = calloc(TASK_SLOTS, sizeof(*agent->task_slots));
        if (agent->task_slots == NULL) {
            return NULL;
        }
    }
    uint32_t at = (uint32_t)((uintptr_t)code >> 4) & (TASK_SLOTS - 1);
    while (agent->task_slots[at].code != NULL) {
        if (agent->task_slots[at].code == code) {
            return agent->task_slots[at].owner;
        }
        at = (at + 1) & (TASK_SLOTS - 1);
    }
    if (agent->task_slots_used >= TASK_SLOTS_USED_MAX) {
        return NULL;
    }
    struct lg_owner *owner = NULL;
    if (!is_server_code(code)) {
        owner = new_task_owner(agent, coro);
        if (owner == NULL) {
            return NULL;                /* the names were in use: asked again next time */
        }
    }
    agent->task_slots[at].code = Py_NewRef(code);
    agent->task_slots[at].owner = owner;
    agent->task_slots_used++;
    return owner;
}

/* With one reference and the name of the coroutine. NULL: the names were in use. */
static struct lg_owner *
new_task_owner(struct lg_agent *agent, PyObject *coro)
{
    struct lg_owner *owner = NULL;
    PyObject *qualname = PyObject_GetAttr(coro, agent->names->qualname);
    Py_ssize_t size = 0;
    const char *text = qualname != NULL && PyUnicode_Check(qualname)
                           ? PyUnicode_AsUTF8AndSize(qualname, &size)
                           : NULL;
    if (text != NULL) {
        uint64_t now = lg_now_ns();
        int endpoint =
            lg_agent_endpoint(agent, LG_KIND_TASK, LG_METHOD_NONE, text, (size_t)size, now);
        owner = endpoint >= 0 ? lg_owner_new(agent, LG_KIND_TASK, now) : NULL;
        if (owner != NULL) {
            lg_owner_name(owner, (uint32_t)endpoint, now);
        }
    }
    Py_XDECREF(qualname);
    PyErr_Clear();
    return owner;
}

/* The tasks in which a server runs its connections, and asyncio's own: their
 * time around the application is the loop's, and two clock reads a request are
 * saved. */
static bool
is_server_code(PyObject *code)
{
    static const char *const packages[] = {
        "/asyncio/",  "/uvicorn/",        "/hypercorn/", "/granian/",
        "/gunicorn/", "/uvicorn_worker/", "/daphne/",
    };
    PyObject *file = ((PyCodeObject *)code)->co_filename;
    const char *text = file == NULL ? NULL : PyUnicode_AsUTF8(file);
    if (text == NULL) {
        PyErr_Clear();
        return false;
    }
    for (size_t i = 0; i < sizeof(packages) / sizeof(packages[0]); i++) {
        if (strstr(text, packages[i]) != NULL) {
            return true;
        }
    }
    return false;
}

uint32_t
lg_task_name_now(struct lg_agent *agent, struct lg_loop *loop)
{
    if (loop->kind == LG_LOOP_OTHER || agent->current_task == NULL) {
        return 0;
    }
    struct lg_pending pending;
    lg_pending_save(&pending);
    uint32_t id = 0;
    PyObject *task = PyObject_CallNoArgs(agent->current_task);
    PyObject *name = task != NULL && task != Py_None
                         ? PyObject_CallMethodNoArgs(task, agent->names->get_name)
                         : NULL;
    Py_ssize_t size = 0;
    const char *text =
        name != NULL && PyUnicode_Check(name) ? PyUnicode_AsUTF8AndSize(name, &size) : NULL;
    if (text != NULL) {
        char *end;
        unsigned long number =
            strncmp(text, "Task-", 5) == 0 ? strtoul(text + 5, &end, 10) : ULONG_MAX;
        if (number < LG_TASK_NUMBER_BIT && *end == '\0' && size > 5) {
            id = LG_TASK_NUMBER_BIT | (uint32_t)number;
        }
        else {
            id = lg_record_string(&agent->rec, text, (size_t)size, LG_TRY);
        }
    }
    Py_XDECREF(name);
    Py_XDECREF(task);
    PyErr_Clear();
    lg_pending_restore(&pending);
    return id;
}

void
lg_task_clear(struct lg_agent *agent)
{
    for (uint32_t i = 0; agent->task_slots != NULL && i < TASK_SLOTS; i++) {
        Py_CLEAR(agent->task_slots[i].code);
        if (agent->task_slots[i].owner != NULL) {
            lg_owner_unref(agent->task_slots[i].owner);
        }
    }
    free(agent->task_slots);
    agent->task_slots = NULL;
    agent->task_slots_used = 0;
}

/* ---- type -------------------------------------------------------------- */

/* No tp_clear: see asgi_traverse() in asgi.c. */
static int
factory_traverse(struct factory *self, visitproc visit, void *arg)
{
    LG_VISIT_TYPE(self);
    Py_VISIT(self->previous);
    return 0;
}

static void
factory_dealloc(struct factory *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->previous);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyMemberDef factory_members[] = {
    {"__wrapped__", Py_T_OBJECT_EX, offsetof(struct factory, previous), Py_READONLY, NULL},
    {"__vectorcalloffset__", Py_T_PYSSIZET, offsetof(struct factory, vectorcall), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot factory_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A task factory that charges child tasks to their request.")},
    {Py_tp_dealloc, factory_dealloc},
    {Py_tp_traverse, factory_traverse},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, factory_members},
    {0, NULL},
};

static PyType_Spec factory_spec = {
    .name = "loopguard._agent.TaskFactory",
    .basicsize = sizeof(struct factory),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | LG_TPFLAGS_VECTORCALL | LG_TPFLAGS_CLOSED,
    .slots = factory_slots,
};

int
lg_task_add_types(PyObject *module, struct lg_agent *agent)
{
    agent->task_factory_type = PyType_FromModuleAndSpec(module, &factory_spec, NULL);
    return agent->task_factory_type == NULL ? -1 : 0;
}
