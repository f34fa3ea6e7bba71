/*
 * pycompat.h - small differences between CPython 3.9 and 3.14, in one place.
 */
#ifndef LG_AGENT_PYCOMPAT_H
#define LG_AGENT_PYCOMPAT_H

#include <Python.h>

#ifndef PySet_CheckExact
#define PySet_CheckExact(o) (Py_TYPE(o) == &PySet_Type)
#endif

#if PY_VERSION_HEX < 0x030A0000
static inline PyObject *
Py_NewRef(PyObject *o)
{
    Py_INCREF(o);
    return o;
}
static inline PyObject *
Py_XNewRef(PyObject *o)
{
    Py_XINCREF(o);
    return o;
}
static inline int
PyModule_AddObjectRef(PyObject *module, const char *name, PyObject *value)
{
    Py_INCREF(value);
    int err = PyModule_AddObject(module, name, value);  /* steals on success */
    if (err < 0) {
        Py_DECREF(value);
    }
    return err;
}
/* Not allowed to be subclassed or built by hand; 3.10 has a flag for it. */
#define LG_TPFLAGS_CLOSED 0
#else
#define LG_TPFLAGS_CLOSED Py_TPFLAGS_DISALLOW_INSTANTIATION
#endif

#if PY_VERSION_HEX < 0x030C0000
#include <structmember.h>
#define Py_T_OBJECT_EX T_OBJECT_EX
#define Py_T_PYSSIZET T_PYSSIZET
#define Py_READONLY READONLY
#endif

/* What a weak reference leads to; new reference, NULL when it is gone. */
static inline PyObject *
lg_weakref_object(PyObject *ref)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *object = NULL;
    return PyWeakref_GetRef(ref, &object) == 1 ? object : NULL;
#else
    PyObject *object = PyWeakref_GET_OBJECT(ref);
    return object == Py_None ? NULL : Py_NewRef(object);
#endif
}

#if PY_VERSION_HEX >= 0x030C0000
#define LG_TPFLAGS_VECTORCALL Py_TPFLAGS_HAVE_VECTORCALL
#else
#define LG_TPFLAGS_VECTORCALL _Py_TPFLAGS_HAVE_VECTORCALL
#endif

/* Code object of a coroutine; borrowed, alive as long as the coroutine is. */
static inline PyObject *
lg_coro_code(PyObject *coro)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyObject *code = (PyObject *)PyGen_GetCode((PyGenObject *)coro);
    Py_XDECREF(code);
    return code;
#else
    return (PyObject *)((PyCoroObject *)coro)->cr_code;
#endif
}

/* A heap type's instances own a reference to it, which traverse visits. */
#define LG_VISIT_TYPE(self) Py_VISIT(Py_TYPE(self))

/* Raises StopIteration(value), also for a value that is a tuple or itself an
 * exception. Steals `value`. */
static inline void
lg_raise_stop_iteration(PyObject *value)
{
    if (value == Py_None) {
        PyErr_SetNone(PyExc_StopIteration);
    }
    else {
        PyObject *error = PyObject_CallOneArg(PyExc_StopIteration, value);
        if (error != NULL) {
            PyErr_SetObject(PyExc_StopIteration, error);
            Py_DECREF(error);
        }
    }
    Py_DECREF(value);
}

/* A pending exception set aside while our own look-ups run, then put back:
 * whatever we do, the application's exception is what it was. */
struct lg_pending {
    PyObject *type;
    PyObject *value;
    PyObject *traceback;
};

static inline void
lg_pending_save(struct lg_pending *p)
{
    PyErr_Fetch(&p->type, &p->value, &p->traceback);
}

static inline void
lg_pending_restore(struct lg_pending *p)
{
    PyErr_Restore(p->type, p->value, p->traceback);
}

#endif
