/* Memory kinds; values of TRITONSERVER_MemoryType. */
#ifndef TRITON_ASYNC_MEMORY_TYPE_H
#define TRITON_ASYNC_MEMORY_TYPE_H

enum ta_memory_type { TA_MEMORY_CPU = 0, TA_MEMORY_CPU_PINNED = 1, TA_MEMORY_GPU = 2 };

#endif
