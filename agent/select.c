/*
 * select.c - see select.h.
 */
#include "select.h"

#include <stddef.h>

#include "../common/lg_clock.h"
#include "agent.h"
#include "pycompat.h"

struct select {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *original;                 /* the selector's bound method */
    struct lg_loop *loop;
    uint32_t epoch;
    struct lg_agent *agent;
};

static PyObject *select_call(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames);
static PyObject *selector_of(PyObject *py_loop);

bool
lg_select_install(struct lg_agent *agent, struct lg_loop *loop, PyObject *py_loop)
{
    struct lg_pending pending;
    lg_pending_save(&pending);
    PyObject *selector = selector_of(py_loop);
    PyObject *original = selector != NULL ? PyObject_GetAttrString(selector, "select") : NULL;
    bool done = false;
    if (original != NULL && Py_TYPE(original) != (PyTypeObject *)agent->select_type) {
        struct select *self = PyObject_GC_New(struct select, (PyTypeObject *)agent->select_type);
        if (self != NULL) {
            self->vectorcall = select_call;
            self->original = Py_NewRef(original);
            self->loop = loop;
            self->epoch = agent->epoch;
            self->agent = agent;
            PyObject_GC_Track(self);
            done = PyObject_SetAttrString(selector, "select", (PyObject *)self) == 0;
            Py_DECREF(self);
        }
    }
    Py_XDECREF(original);
    Py_XDECREF(selector);
    PyErr_Clear();
    lg_pending_restore(&pending);
    return done;
}

void
lg_select_uninstall(struct lg_agent *agent, PyObject *py_loop)
{
    struct lg_pending pending;
    lg_pending_save(&pending);
    PyObject *selector = selector_of(py_loop);
    PyObject *present = selector != NULL ? PyObject_GetAttrString(selector, "select") : NULL;
    if (present != NULL && Py_TYPE(present) == (PyTypeObject *)agent->select_type) {
        /* Ours stands on the instance; behind it is the class's. */
        (void)PyObject_DelAttrString(selector, "select");
    }
    Py_XDECREF(present);
    Py_XDECREF(selector);
    PyErr_Clear();                      /* a closed loop has none: nothing to undo */
    lg_pending_restore(&pending);
}

static PyObject *
selector_of(PyObject *py_loop)
{
    PyObject *selector = PyObject_GetAttrString(py_loop, "_selector");
    if (selector == Py_None) {
        Py_CLEAR(selector);
    }
    return selector;
}

static PyObject *
select_call(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct select *self = (struct select *)op;
    bool ours = self->epoch == self->agent->epoch && lg_loop_current() == self->loop;
    if (ours) {
        lg_loop_poll_enter(self->loop, lg_now_ns());
    }
    PyObject *result = PyObject_Vectorcall(self->original, args,
                                           nargsf & ~PY_VECTORCALL_ARGUMENTS_OFFSET, kwnames);
    if (ours && self->epoch == self->agent->epoch) {
        lg_loop_poll_leave(self->loop, lg_now_ns());
    }
    return result;
}

/* No tp_clear: see asgi_traverse() in asgi.c. */
static int
select_traverse(struct select *self, visitproc visit, void *arg)
{
    LG_VISIT_TYPE(self);
    Py_VISIT(self->original);
    return 0;
}

static void
select_dealloc(struct select *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->original);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyMemberDef select_members[] = {
    {"__wrapped__", Py_T_OBJECT_EX, offsetof(struct select, original), Py_READONLY, NULL},
    {"__vectorcalloffset__", Py_T_PYSSIZET, offsetof(struct select, vectorcall), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot select_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A selector's select, with the loop's idle time noted.")},
    {Py_tp_dealloc, select_dealloc},
    {Py_tp_traverse, select_traverse},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, select_members},
    {0, NULL},
};

static PyType_Spec select_spec = {
    .name = "loopguard._agent.Select",
    .basicsize = sizeof(struct select),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | LG_TPFLAGS_VECTORCALL | LG_TPFLAGS_CLOSED,
    .slots = select_slots,
};

int
lg_select_add_types(PyObject *module, struct lg_agent *agent)
{
    agent->select_type = PyType_FromModuleAndSpec(module, &select_spec, NULL);
    return agent->select_type == NULL ? -1 : 0;
}
