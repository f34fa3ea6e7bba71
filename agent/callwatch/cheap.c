/*
 * cheap.c - fills the set. Under the GIL.
 */
#include "cheap.h"

#include "../pycompat.h"

bool
lg_cheap_add(struct lg_cheap *cheap, PyObject *callable)
{
    const void *identity = lg_cheap_identity(callable);
    if (identity == NULL || lg_cheap_has(cheap, callable)) {
        return identity != NULL;
    }
    if (PyType_Check(callable) &&
        PyType_HasFeature((PyTypeObject *)callable, Py_TPFLAGS_HEAPTYPE)) {
        return false;                   /* may go, and another take its address */
    }
    if (cheap->count >= LG_CHEAP_SLOTS / 2) {
        return false;
    }
    uint32_t i = lg_cheap_slot(identity);
    while (cheap->slots[i] != NULL) {
        i = (i + 1) & (LG_CHEAP_SLOTS - 1);
    }
    cheap->slots[i] = identity;
    cheap->count++;
    return true;
}
