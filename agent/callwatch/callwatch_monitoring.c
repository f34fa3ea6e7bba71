/*
 * callwatch_monitoring.c - calls by sys.monitoring (PEP 669), Python 3.12 and
 * newer.
 *
 * The package takes a tool id and registers these callbacks; they are called
 * on every thread, under the GIL. They are objects of a type of our own with a
 * vectorcall, half the price of a built-in function.
 *
 * Answering DISABLE takes the event out of that place of the code, for good:
 * code that no filter sees costs nothing after its first events, and a call of
 * a Python function (which has events of its own) or of a cheap C function is
 * timed only the first time; trivial functions are never. Should that place call something else one day, a
 * block there is its caller's own time. C_RETURN, C_RAISE, PY_UNWIND and
 * PY_THROW cannot be disabled (3.12: doing so takes the callback away).
 */
#include "callwatch.h"

#if LG_HAVE_MONITORING

#include <stddef.h>

#include "../pycompat.h"

struct callback {
    PyObject_HEAD
    vectorcallfunc call;
    struct lg_callwatch *watch;         /* strong */
};

/* The frame that the event is about: a callback in C adds none. */
static uintptr_t
current_frame(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return (uintptr_t)PyThreadState_GetUnchecked()->current_frame;
#else
    return (uintptr_t)_PyThreadState_UncheckedGet()->cframe->current_frame;
#endif
}

static PyObject *
disable(struct lg_callwatch *watch)
{
    return Py_NewRef(watch->disable);
}

/* No filter sees this code: it need not come again while these are the filters. */
static PyObject *
put_to_sleep(struct lg_callwatch *watch)
{
    watch->asleep &= watch->wanted;
    return disable(watch);
}

static void
ended(struct lg_callwatch *watch, struct lg_callwatch_thread *thread,
      const struct lg_shadow_entry *entry, uint64_t now, PyObject *code)
{
    if (now - entry->start >= watch->threshold) {
        struct lg_ended e = {.entry = *entry,
                             .now = now,
                             .frame = Py_None,
                             .code = code,
                             .line = ((PyCodeObject *)code)->co_firstlineno};
        lg_callwatch_ended(watch, thread, &e);
    }
}

/* ---- Python functions -------------------------------------------------- */

/* PY_START, PY_RESUME (code, offset); PY_THROW (code, offset, exception). */
static PyObject *
entered(struct lg_callwatch *watch, PyObject *code, bool can_sleep)
{
    uint32_t verdict = lg_callwatch_verdict(watch, code);
    if (verdict == 0) {
        return can_sleep ? put_to_sleep(watch) : Py_NewRef(Py_None);
    }
    if (verdict & LG_VERDICT_TRIVIAL && can_sleep) {
        return disable(watch);
    }
    struct lg_callwatch_thread *thread = lg_callwatch_thread(watch);
    if (thread != NULL) {
        lg_shadow_push(&thread->shadow, current_frame(), code, lg_ticks_now(&watch->ticks));
    }
    return Py_NewRef(Py_None);
}

/* PY_RETURN, PY_YIELD (code, offset, value); PY_UNWIND (code, offset, exception). */
static PyObject *
left(struct lg_callwatch *watch, PyObject *code, bool can_sleep)
{
    struct lg_callwatch_thread *thread = lg_callwatch_thread(watch);
    if (thread == NULL) {
        return Py_NewRef(Py_None);
    }
    uintptr_t frame = current_frame();
    struct lg_shadow_entry entry;
    if (lg_shadow_on_top(&thread->shadow, frame)) {
        entry = thread->shadow.entries[--thread->shadow.depth];
    }
    else {
        uint32_t verdict = lg_callwatch_verdict(watch, code);
        if (verdict == 0) {
            return can_sleep ? put_to_sleep(watch) : Py_NewRef(Py_None);
        }
        if (!lg_shadow_leave(&thread->shadow, frame, code, &entry)) {
            /* it ran before anybody looked, or nobody looks */
            return verdict & LG_VERDICT_TRIVIAL && can_sleep ? disable(watch) : Py_NewRef(Py_None);
        }
    }
    ended(watch, thread, &entry, lg_ticks_now(&watch->ticks), code);
    return Py_NewRef(Py_None);
}

static PyObject *
on_entered(PyObject *self, PyObject *const *args, size_t nargs, PyObject *kwnames)
{
    (void)nargs;
    (void)kwnames;
    return entered(((struct callback *)self)->watch, args[0], true);
}

static PyObject *
on_thrown(PyObject *self, PyObject *const *args, size_t nargs, PyObject *kwnames)
{
    (void)nargs;
    (void)kwnames;
    return entered(((struct callback *)self)->watch, args[0], false);
}

static PyObject *
on_left(PyObject *self, PyObject *const *args, size_t nargs, PyObject *kwnames)
{
    (void)nargs;
    (void)kwnames;
    return left(((struct callback *)self)->watch, args[0], true);
}

static PyObject *
on_unwound(PyObject *self, PyObject *const *args, size_t nargs, PyObject *kwnames)
{
    (void)nargs;
    (void)kwnames;
    return left(((struct callback *)self)->watch, args[0], false);
}

/* ---- C functions ------------------------------------------------------- */

/* Will whatever takes long in it come as events of Python functions? */
static bool
is_python(const struct lg_callwatch *watch, PyObject *callable)
{
    if (PyFunction_Check(callable)) {
        return true;
    }
    if (PyMethod_Check(callable)) {
        return PyFunction_Check(PyMethod_GET_FUNCTION(callable));
    }
    if (PyType_Check(callable)) {
        const PyTypeObject *type = (PyTypeObject *)callable;
        bool plain_new =
            type->tp_new == PyBaseObject_Type.tp_new || type->tp_new == watch->slot_new;
        return PyExceptionClass_Check(callable) || Py_TYPE(type)->tp_call == watch->slot_call ||
               (Py_TYPE(type)->tp_call == PyType_Type.tp_call &&
                (type->tp_init == watch->slot_init ||
                 (type->tp_init == PyBaseObject_Type.tp_init && plain_new)));
    }
    return Py_TYPE(callable)->tp_call == watch->slot_call;
}

/* CALL (code, offset, callable, first argument) */
static PyObject *
on_call(PyObject *self, PyObject *const *args, size_t nargs, PyObject *kwnames)
{
    (void)nargs;
    (void)kwnames;
    struct lg_callwatch *watch = ((struct callback *)self)->watch;
    PyObject *callable = args[2];
    if (is_python(watch, callable) || lg_cheap_has(&watch->cheap, callable)) {
        return disable(watch);
    }
    struct lg_callwatch_thread *thread = lg_callwatch_thread(watch);
    if (thread == NULL) {
        return Py_NewRef(Py_None);
    }
    uintptr_t frame = current_frame();
    if (!lg_shadow_on_top(&thread->shadow, frame) && lg_callwatch_verdict(watch, args[0]) == 0) {
        return put_to_sleep(watch);
    }
    lg_shadow_push(&thread->shadow, frame | LG_SHADOW_C, args[0], lg_ticks_now(&watch->ticks));
    return Py_NewRef(Py_None);
}

/* C_RETURN, C_RAISE, the same arguments */
static PyObject *
on_c_left(PyObject *self, PyObject *const *args, size_t nargs, PyObject *kwnames)
{
    (void)nargs;
    (void)kwnames;
    struct lg_callwatch *watch = ((struct callback *)self)->watch;
    struct lg_callwatch_thread *thread = lg_callwatch_thread(watch);
    if (thread == NULL) {
        return Py_NewRef(Py_None);
    }
    uintptr_t frame = current_frame();
    struct lg_shadow_entry entry;
    if (lg_shadow_on_top(&thread->shadow, frame | LG_SHADOW_C)) {
        entry = thread->shadow.entries[--thread->shadow.depth];
    }
    else if (lg_shadow_on_top(&thread->shadow, frame) ||
             !lg_shadow_leave(&thread->shadow, frame | LG_SHADOW_C, NULL, &entry)) {
        return Py_NewRef(Py_None);      /* not timed: a cheap one, or seen too late */
    }
    uint64_t now = lg_ticks_now(&watch->ticks);
    if (now - entry.start >= watch->threshold) {
        int offset = (int)PyLong_AsLong(args[1]);
        struct lg_ended e = {.entry = entry,
                             .now = now,
                             .frame = Py_None,
                             .code = args[0],
                             .callable = args[2],
                             .line = PyCode_Addr2Line((PyCodeObject *)args[0], offset)};
        lg_callwatch_ended(watch, thread, &e);
    }
    return Py_NewRef(Py_None);
}

/* ---- type -------------------------------------------------------------- */

static int
callback_traverse(PyObject *op, visitproc visit, void *arg)
{
    LG_VISIT_TYPE(op);
    Py_VISIT(((struct callback *)op)->watch);
    return 0;
}

static int
callback_clear(PyObject *op)
{
    Py_CLEAR(((struct callback *)op)->watch);
    return 0;
}

static void
callback_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)callback_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMemberDef callback_members[] = {
    {"__vectorcalloffset__", Py_T_PYSSIZET, offsetof(struct callback, call), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot callback_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("What sys.monitoring calls.")},
    {Py_tp_call, (void *)PyVectorcall_Call},
    {Py_tp_dealloc, (void *)callback_dealloc},
    {Py_tp_traverse, (void *)callback_traverse},
    {Py_tp_clear, (void *)callback_clear},
    {Py_tp_members, callback_members},
    {0, NULL},
};

static PyType_Spec callback_spec = {
    .name = "loopguard._agent.CallEvent",
    .basicsize = sizeof(struct callback),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | LG_TPFLAGS_VECTORCALL | LG_TPFLAGS_CLOSED,
    .slots = callback_slots,
};

static const struct {
    const char *event;
    vectorcallfunc call;
} events[] = {
    {"PY_START", on_entered}, {"PY_RESUME", on_entered}, {"PY_THROW", on_thrown},
    {"PY_RETURN", on_left},   {"PY_YIELD", on_left},     {"PY_UNWIND", on_unwound},
    {"CALL", on_call},        {"C_RETURN", on_c_left},   {"C_RAISE", on_c_left},
};

PyObject *
lg_callwatch_callbacks(struct lg_callwatch *watch, PyObject *type)
{
    PyObject *all = PyDict_New();
    for (size_t i = 0; all != NULL && i < sizeof(events) / sizeof(events[0]); i++) {
        struct callback *made = (struct callback *)PyType_GenericAlloc((PyTypeObject *)type, 0);
        if (made == NULL) {
            Py_CLEAR(all);
            break;
        }
        made->call = events[i].call;
        made->watch = (struct lg_callwatch *)Py_NewRef((PyObject *)watch);
        if (PyDict_SetItemString(all, events[i].event, (PyObject *)made) < 0) {
            Py_CLEAR(all);
        }
        Py_DECREF(made);
    }
    return all;
}

PyObject *
lg_callwatch_new_callback_type(PyObject *module)
{
    return PyType_FromModuleAndSpec(module, &callback_spec, NULL);
}

#endif
