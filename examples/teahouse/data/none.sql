-- Production begins with what the migrations bring, and nothing else.
select 1;
