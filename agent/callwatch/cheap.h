/*
 * cheap.h - the set of C functions and types that never take long by
 * themselves: timing them would cost more than they do.
 *
 * Filled from the package's list (calls.py). A call of one is its caller's own
 * time; Python code that one calls (__len__, __eq__) is seen as ever. Holds no
 * reference: what is in it lives as long as the interpreter.
 */
#ifndef LG_AGENT_CHEAP_H
#define LG_AGENT_CHEAP_H

#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

#define LG_CHEAP_SLOTS 512u             /* a power of two */

struct lg_cheap {
    const void *slots[LG_CHEAP_SLOTS];
    uint32_t count;
};

/* A C function, a method of a static type, or a static type. False: not one of
 * these, or full. */
bool lg_cheap_add(struct lg_cheap *cheap, PyObject *callable);

/* What a callable is known by: its method definition or itself; NULL: none. */
static inline const void *
lg_cheap_identity(PyObject *callable)
{
    if (PyCFunction_Check(callable)) {
        return ((PyCFunctionObject *)callable)->m_ml;
    }
    if (Py_IS_TYPE(callable, &PyMethodDescr_Type)) {
        return ((PyMethodDescrObject *)callable)->d_method;
    }
    return PyType_Check(callable) ? callable : NULL;
}

static inline uint32_t
lg_cheap_slot(const void *identity)
{
    return (uint32_t)(((uint64_t)(uintptr_t)identity * UINT64_C(0x9E3779B97F4A7C15)) >> 40) &
           (LG_CHEAP_SLOTS - 1);
}

static inline bool
lg_cheap_has(const struct lg_cheap *cheap, PyObject *callable)
{
    const void *identity = lg_cheap_identity(callable);
    if (identity == NULL) {
        return false;
    }
    for (uint32_t i = lg_cheap_slot(identity);; i = (i + 1) & (LG_CHEAP_SLOTS - 1)) {
        if (cheap->slots[i] == identity) {
            return true;
        }
        if (cheap->slots[i] == NULL) {
            return false;
        }
    }
}

#endif
