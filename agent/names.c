/*
 * names.c - see names.h.
 */
#include "names.h"

#include "../common/lg_layout.h"

int
lg_names_init(struct lg_names *names)
{
#define LG_X(identifier, text) \
    names->identifier = PyUnicode_InternFromString(text); \
    if (names->identifier == NULL) { \
        return -1; \
    }
    LG_NAMES(LG_X)
#undef LG_X
    static const char *const methods[12] = {
#define LG_X(name, number, text) [number] = text,
        LG_METHODS(LG_X)
#undef LG_X
    };
    for (int i = 0; i < 12; i++) {
        names->methods[i] = PyUnicode_InternFromString(methods[i]);
        if (names->methods[i] == NULL) {
            return -1;
        }
    }
    return 0;
}

void
lg_names_clear(struct lg_names *names)
{
#define LG_X(identifier, text) Py_CLEAR(names->identifier);
    LG_NAMES(LG_X)
#undef LG_X
    for (int i = 0; i < 12; i++) {
        Py_CLEAR(names->methods[i]);
    }
}

int
lg_names_method(const struct lg_names *names, PyObject *method)
{
    if (method == NULL || !PyUnicode_Check(method)) {
        return LG_METHOD_OTHER;
    }
    /* Servers intern the common ones or build them anew: addresses first. */
    for (int i = LG_METHOD_GET; i <= LG_METHOD_CONNECT; i++) {
        if (method == names->methods[i]) {
            return i;
        }
    }
    for (int i = LG_METHOD_GET; i <= LG_METHOD_CONNECT; i++) {
        if (PyUnicode_Compare(method, names->methods[i]) == 0) {
            return i;
        }
    }
    return LG_METHOD_OTHER;
}
