/*
 * step.c - the timed coroutine.
 *
 * Two clock reads a step are nearly all of its cost; everything else on the
 * short path is a few stores into lines that are already near.
 */
#include "step.h"

#include <string.h>

#include "../common/lg_clock.h"
#include "../common/lg_seqlock.h"
#include "charge.h"
#include "names.h"
#include "pycompat.h"
#include "slices/slice.h"
#include "tell.h"
#include "waited.h"

struct timed {
    PyObject_HEAD
    PyObject *inner;                    /* the application's coroutine */
    PyObject *scope;                    /* outermost coroutine of a request only */
    PyObject *weakrefs;
    struct lg_agent *agent;
    struct lg_owner *owner;
    bool root;
};

/* State of one step on the C stack: steps nest when a task starts eagerly. */
struct running {
    struct lg_loop *loop;               /* NULL: not measured */
    uint64_t start_ns;
    struct lg_owner *outer;
    uint64_t outer_start_ns;
    uint64_t outer_excluded_ns;
    struct lg_sums outer_sums;
    uint64_t outer_gc_ns;
    uint64_t slice;                     /* of slice.h, 0 = none */
    uint64_t end_ns;
};

#define FREE_TIMED 64
static void enter(struct timed *self, struct running *r);
static void leave(struct timed *self, struct running *r, bool finished);
static void finish_root(struct timed *self, uint64_t now_ns, bool raised);
static bool is_cancellation(PyObject *type);
#if PY_VERSION_HEX >= 0x030A0000
static PySendResult refuse(struct timed *self, PySendResult how, PyObject **result);
#else
static PyObject *refuse(struct timed *self, PyObject *result);
#endif
static PyObject *resume(struct timed *self, PyObject *value);
static PyObject *forward(struct timed *self, PyObject *method, PyObject *const *args,
                         Py_ssize_t nargs);

/* Memory of dead ones, reused: a request allocates nothing after warm-up.
 * Under the GIL, as all of this room. */
static struct {
    struct timed *slot[FREE_TIMED];
    int count;
} free_timed;

/* ---- making ------------------------------------------------------------ */

PyObject *
lg_step_wrap(struct lg_agent *agent, PyObject *inner, struct lg_owner *owner, PyObject *scope)
{
    PyTypeObject *type = (PyTypeObject *)agent->timed_type;
    struct timed *self;
    if (free_timed.count > 0) {
        self = free_timed.slot[--free_timed.count];
        (void)PyObject_Init((PyObject *)self, type);
    }
    else {
        self = PyObject_GC_New(struct timed, type);
        if (self == NULL) {
            Py_DECREF(inner);
            return NULL;
        }
    }
    self->inner = inner;
    self->scope = Py_XNewRef(scope);
    self->weakrefs = NULL;
    self->agent = agent;
    self->owner = lg_owner_ref(owner);
    self->root = scope != NULL;
    if (self->root) {
        owner->scope = scope;
    }
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

/* No tp_clear, as with tuples: whatever cycle it is in goes through something
 * that has one, and nobody can meet it emptied. */
static int
timed_traverse(struct timed *self, visitproc visit, void *arg)
{
    LG_VISIT_TYPE(self);
    Py_VISIT(self->inner);
    Py_VISIT(self->scope);
    return 0;
}

static void
timed_dealloc(struct timed *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    struct lg_owner *owner = self->owner;
    self->owner = NULL;
    if (self->root) {
        owner->scope = NULL;
    }
    /* The inner coroutine may warn "never awaited" or run its finally blocks
     * here, exactly as without us. */
    Py_CLEAR(self->inner);
    Py_CLEAR(self->scope);
    if (owner != NULL) {
        lg_owner_unref(owner);
    }
    if (free_timed.count < FREE_TIMED) {
        free_timed.slot[free_timed.count++] = self;
    }
    else {
        PyObject_GC_Del(self);
    }
    Py_DECREF(type);
}

void
lg_step_trim(void)
{
    while (free_timed.count > 0) {
        PyObject_GC_Del(free_timed.slot[--free_timed.count]);
    }
}

/* ---- measuring --------------------------------------------------------- */

static void
enter(struct timed *self, struct running *r)
{
    struct lg_owner *owner = self->owner;
    r->slice = 0;
    if (!lg_owner_is_current(owner)) {
        r->loop = NULL;                 /* stopped, or forked, since it began */
        return;
    }
    struct lg_loop *loop = lg_loop_current();
    if (loop == NULL) {
        loop = lg_loop_here(self->agent);
    }
    r->loop = loop;
    if (loop == NULL) {
        return;
    }
    r->outer = loop->running;
    if (r->outer == owner) {
        r->loop = NULL;                 /* within its own step already */
        return;
    }
    uint64_t now = lg_now_ns();
    if (r->outer == NULL) {
        if (now - loop->edge_ns > loop->gap_threshold_ns) {
            if (!lg_loop_begun_anew(loop, now)) {
                lg_charge_gap(loop, now);
            }
        }
        else if (loop->edge_ns != 0) {
            lg_loop_busy(loop, now - loop->edge_ns);
        }
    }
    else {
        r->outer_start_ns = loop->step_start_ns;
        r->outer_excluded_ns = loop->excluded_ns;
        r->outer_sums = loop->step_sums;
        r->outer_gc_ns = loop->step_gc_ns;
    }
    if (self->agent->slices != NULL) {
        now = lg_slice_enter(loop, owner, now, &r->slice);
        if (now == 0) {
            r->loop = NULL;             /* stopped by what was told just now */
            return;
        }
    }
    loop->running = owner;
    r->start_ns = now;
    loop->step_start_ns = now;
    loop->excluded_ns = 0;
    loop->step_sums = lg_loop_sums(loop);
    loop->step_gc_ns = loop->gc_ns;
    if (owner->loop == NULL) {
        owner->loop = loop;
        if (owner->kind == LG_KIND_REQUEST || owner->kind == LG_KIND_WEBSOCKET) {
            lg_charge_open(loop, owner, +1);
        }
    }
    if (lg_waited_is_due(loop)) {
        lg_waited_step(loop, owner, now);
    }
    lg_loop_publish(loop, owner, now,
                    owner->response_sent ? LG_LOOP_STEP | LG_LOOP_AFTER_RESPONSE : LG_LOOP_STEP);
}

static void
leave(struct timed *self, struct running *r, bool finished)
{
    struct lg_loop *loop = r->loop;
    if (loop == NULL || loop->running != self->owner) {
        return;                         /* not measured, or stopped in between */
    }
    struct lg_owner *owner = self->owner;
    uint64_t now = lg_now_ns();
    r->end_ns = now;
    struct lg_step_end s = {
        .start_ns = loop->step_start_ns,
        .end_ns = now,
        .wall_ns = now - loop->step_start_ns - loop->excluded_ns,
        .sums = loop->step_sums,
        .gc_ns = loop->step_gc_ns,
        .finished = finished,
    };
    loop->running = NULL;
    lg_charge_step(loop, owner, &s);
    loop->edge_ns = now;
    loop->edge_sums = lg_loop_sums(loop);
    loop->edge_gc_ns = loop->gc_ns;
    if (r->outer == NULL) {
        lg_loop_publish_idle(loop);
    }
    else {
        /* Not from s.start_ns: a response that was sent has moved it. */
        uint64_t whole = now - r->start_ns;
        loop->running = r->outer;
        loop->step_start_ns = r->outer_start_ns;
        loop->excluded_ns = r->outer_excluded_ns + whole;
        loop->step_sums = r->outer_sums;
        loop->step_gc_ns = r->outer_gc_ns;
        /* As old as what it did itself: to the watchdog it must not look as if
         * the nested time were its own. */
        lg_loop_publish(loop, r->outer, r->outer_start_ns + loop->excluded_ns, LG_LOOP_STEP);
    }
    if (finished && self->root) {
        finish_root(self, now, PyErr_Occurred() != NULL);
    }
    if (loop->untold != NULL) {
        lg_tell_now(loop);
    }
}

/* The application returned or raised: count the request, let go of the scope. */
static void
finish_root(struct timed *self, uint64_t now_ns, bool raised)
{
    struct lg_owner *owner = self->owner;
    if (raised) {
        owner->flags |= is_cancellation(PyErr_Occurred()) ? LG_REQ_CANCELLED : LG_REQ_EXCEPTION;
    }
    if (owner->endpoint < 0 && self->scope != NULL) {
        lg_route_name_at_end(self->agent, owner, self->scope);
    }
    lg_owner_finish(owner, now_ns);
    owner->scope = NULL;
    Py_CLEAR(self->scope);
}

static bool
is_cancellation(PyObject *type)
{
    if (type == NULL || !PyType_Check(type)) {
        return false;
    }
    if (PyErr_GivenExceptionMatches(type, PyExc_GeneratorExit)) {
        return true;
    }
    /* asyncio's and trio's: told by name, neither is imported for this. */
    const char *name = ((PyTypeObject *)type)->tp_name;
    const char *dot = strrchr(name, '.');
    name = dot == NULL ? name : dot + 1;
    return strcmp(name, "CancelledError") == 0 || strcmp(name, "Cancelled") == 0;
}

/* ---- being a coroutine ------------------------------------------------- */

static PyObject *
timed_await(PyObject *self)
{
    return Py_NewRef(self);
}

#if PY_VERSION_HEX >= 0x030A0000
static PySendResult
timed_am_send(PyObject *op, PyObject *value, PyObject **result)
{
    struct timed *self = (struct timed *)op;
    struct running r;
    enter(self, &r);
    PySendResult how = PyIter_Send(self->inner, value, result);
    leave(self, &r, how != PYGEN_NEXT);
    if (r.slice != 0 && lg_slice_leave(r.loop, r.slice, r.end_ns, how != PYGEN_ERROR)) {
        how = refuse(self, how, result);
    }
    return how;
}

/* The step blocked where that is not allowed (loopguard.blocking): the exception
 * that is set is raised in the coroutine, at the await or return it came to. */
static PySendResult
refuse(struct timed *self, PySendResult how, PyObject **result)
{
    Py_CLEAR(*result);
    if (how == PYGEN_RETURN) {
        return PYGEN_ERROR;
    }
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    *result = PyObject_CallMethodOneArg(self->inner, self->agent->names->throw_, error);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    if (*result != NULL) {
        return PYGEN_NEXT;              /* caught, and it waits for something else */
    }
    if (self->root) {
        finish_root(self, lg_now_ns(), !PyErr_ExceptionMatches(PyExc_StopIteration));
    }
    if (!PyErr_ExceptionMatches(PyExc_StopIteration)) {
        return PYGEN_ERROR;
    }
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    *result = PyObject_GetAttrString(error, "value");
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return *result != NULL ? PYGEN_RETURN : PYGEN_ERROR;
}

static PyObject *
resume(struct timed *self, PyObject *value)
{
    PyObject *result;
    switch (timed_am_send((PyObject *)self, value, &result)) {
    case PYGEN_NEXT:
        return result;
    case PYGEN_RETURN:
        lg_raise_stop_iteration(result);
        return NULL;
    default:
        return NULL;
    }
}
#else
static PyObject *
resume(struct timed *self, PyObject *value)
{
    struct running r;
    enter(self, &r);
    PyObject *result;
    if (PyCoro_CheckExact(self->inner) || PyGen_CheckExact(self->inner)) {
        result = _PyGen_Send((PyGenObject *)self->inner, value);
    }
    else {
        result = PyObject_CallMethodOneArg(self->inner, self->agent->names->send, value);
    }
    if (result == NULL && PyErr_ExceptionMatches(PyExc_StopIteration)) {
        /* "Returned" is not "raised" for the counters: look without it. */
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        leave(self, &r, true);
        if (r.slice != 0 && lg_slice_leave(r.loop, r.slice, r.end_ns, true)) {
            Py_XDECREF(type);
            Py_XDECREF(error);
            Py_XDECREF(traceback);
            return NULL;                /* raised where it wanted to return */
        }
        PyErr_Restore(type, error, traceback);
        return NULL;
    }
    leave(self, &r, result == NULL);
    if (r.slice != 0 && lg_slice_leave(r.loop, r.slice, r.end_ns, result != NULL)) {
        result = refuse(self, result);
    }
    return result;
}

/* The step blocked where that is not allowed (loopguard.blocking): the exception
 * that is set is raised in the coroutine, at the await it came to. */
static PyObject *
refuse(struct timed *self, PyObject *result)
{
    Py_DECREF(result);
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    result = PyObject_CallMethodOneArg(self->inner, self->agent->names->throw_, error);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    if (result == NULL && self->root) {
        finish_root(self, lg_now_ns(), !PyErr_ExceptionMatches(PyExc_StopIteration));
    }
    return result;
}
#endif

/* What `await` calls from 3.12 on. No exception stands for "returned None",
 * which nearly every step that ends is: as the interpreter's own coroutines. */
static PyObject *
timed_iternext(struct timed *self)
{
#if PY_VERSION_HEX >= 0x030A0000
    PyObject *result;
    PySendResult how = timed_am_send((PyObject *)self, Py_None, &result);
    if (how == PYGEN_RETURN && result != Py_None) {
        lg_raise_stop_iteration(result);
        return NULL;
    }
    if (how == PYGEN_RETURN) {
        Py_DECREF(result);
    }
    return how == PYGEN_NEXT ? result : NULL;
#else
    return resume(self, Py_None);
#endif
}

static PyObject *
timed_send(struct timed *self, PyObject *value)
{
    return resume(self, value);
}

static PyObject *
timed_throw(struct timed *self, PyObject *const *args, Py_ssize_t nargs)
{
    return forward(self, self->agent->names->throw_, args, nargs);
}

static PyObject *
timed_close(struct timed *self, PyObject *unused)
{
    (void)unused;
    return forward(self, self->agent->names->close, NULL, 0);
}

/* Calls the inner method with exactly the arguments given, as a step. */
static PyObject *
forward(struct timed *self, PyObject *method, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *stack[4] = {self->inner};
    if (nargs > 3) {
        PyErr_Format(PyExc_TypeError, "%U expected at most 3 arguments, got %zd", method, nargs);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        stack[i + 1] = args[i];
    }
    bool closing = method == self->agent->names->close;
    struct running r;
    enter(self, &r);
    PyObject *result = PyObject_VectorcallMethod(method, stack, (size_t)(nargs + 1), NULL);
    if (result == NULL && PyErr_ExceptionMatches(PyExc_StopIteration)) {
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        leave(self, &r, true);
        if (r.slice != 0) {
            (void)lg_slice_leave(r.loop, r.slice, r.end_ns, false);
        }
        PyErr_Restore(type, error, traceback);
        return NULL;
    }
    if (closing && result != NULL && !self->owner->finished) {
        self->owner->flags |= LG_REQ_CANCELLED;
    }
    leave(self, &r, result == NULL || closing);
    if (r.slice != 0) {
        (void)lg_slice_leave(r.loop, r.slice, r.end_ns, false);
    }
    return result;
}

static PyObject *
timed_getattro(PyObject *op, PyObject *name)
{
    PyObject *value = PyObject_GenericGetAttr(op, name);
    if (value == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        value = PyObject_GetAttr(((struct timed *)op)->inner, name);
    }
    return value;
}

static int
timed_setattro(PyObject *op, PyObject *name, PyObject *value)
{
    return PyObject_SetAttr(((struct timed *)op)->inner, name, value);
}

static PyObject *
timed_repr(struct timed *self)
{
    return PyObject_Repr(self->inner);
}

/* ---- type -------------------------------------------------------------- */

static PyMethodDef timed_methods[] = {
    {"send", (PyCFunction)(void *)timed_send, METH_O,
     PyDoc_STR("send(value) -> the inner coroutine's next value, as a timed step")},
    {"throw", (PyCFunction)(void *)timed_throw, METH_FASTCALL,
     PyDoc_STR("throw(type[, value[, traceback]]) -> into the inner coroutine")},
    {"close", (PyCFunction)(void *)timed_close, METH_NOARGS,
     PyDoc_STR("close() -> closes the inner coroutine")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef timed_members[] = {
    {"__wrapped__", Py_T_OBJECT_EX, offsetof(struct timed, inner), Py_READONLY, NULL},
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct timed, weakrefs), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot timed_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A coroutine whose steps are timed; otherwise the inner one.")},
    {Py_tp_dealloc, timed_dealloc},
    {Py_tp_traverse, timed_traverse},
    {Py_tp_repr, timed_repr},
    {Py_tp_getattro, timed_getattro},
    {Py_tp_setattro, timed_setattro},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, timed_iternext},
    {Py_am_await, timed_await},
#if PY_VERSION_HEX >= 0x030A0000
    {Py_am_send, timed_am_send},
#endif
    {Py_tp_methods, timed_methods},
    {Py_tp_members, timed_members},
    {0, NULL},
};

static PyType_Spec timed_spec = {
    .name = "loopguard._agent.TimedCoroutine",
    .basicsize = sizeof(struct timed),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | LG_TPFLAGS_CLOSED,
    .slots = timed_slots,
};

int
lg_step_add_types(PyObject *module, struct lg_agent *agent)
{
    agent->timed_type = PyType_FromModuleAndSpec(module, &timed_spec, NULL);
    return agent->timed_type == NULL ? -1 : 0;
}
